// The arithmetic of a step, written once and compiled for each instruction set by the file that includes it after
// choosing its lanes. Only built-in functions and libm are called: a standard template compiled here could be merged by
// the linker into code that runs on lesser machines.
//
// Sums are taken in an order that depends on the sizes alone, so a row gives the same bits whatever is beside it.

namespace {

using namespace dyno;
using F = Lanes::F;
using I = Lanes::I;
constexpr int W = Lanes::kWidth;
constexpr int kTogether = 4;  // rows of activations that share one reading of a weight
constexpr int kBlock = 32;    // columns of an I4 weight, and of its activations, with a scale of their own
constexpr int kPanel = 16;    // rows of an I4 weight whose codes lie together
constexpr int64_t kShort = 512;  // columns below which a row's sum costs more than its reading

// Sums in an array stay in registers only where the loops over it are unrolled early.
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

float number(const dyno_vector &v, int64_t i) {
    if (v.kind == DYNO_BF16) return widen(((const Bf16 *)v.data)[i]);
    if (v.kind == DYNO_F16) return widen(((const F16 *)v.data)[i]);
    return ((const float *)v.data)[i];
}

// W numbers of a vector from i on, zeros after `size`.
F numbers(const dyno_vector &v, int64_t i, int64_t size) {
    const int n = size - i < W ? int(size - i) : W;
    if (v.kind == DYNO_BF16) {
        const Bf16 *p = (const Bf16 *)v.data + i;
        return n == W ? Lanes::load(p) : Lanes::load_part(p, n);
    }
    if (v.kind == DYNO_F16) {
        const F16 *p = (const F16 *)v.data + i;
        return n == W ? Lanes::load(p) : Lanes::load_part(p, n);
    }
    const float *p = (const float *)v.data + i;
    return n == W ? Lanes::load(p) : Lanes::load_part(p, n);
}

template <class E> F part(const E *p, int64_t left) { return left >= W ? Lanes::load(p) : Lanes::load_part(p, int(left)); }

void put(float *p, F v, int64_t left) {
    if (left >= W) Lanes::store(p, v);
    else Lanes::store_part(p, v, int(left));
}

// The sum over the lanes of each of N vectors, four at a time.
template <int N> void totals(const F (&v)[N], float (&out)[N]) {
    UNROLL for (int i = 0; i < N; i += 4) {
        const F none = Lanes::set(0.0f);
        float four[4];
        Lanes::sum_four(v[i], i + 1 < N ? v[i + 1] : none, i + 2 < N ? v[i + 2] : none, i + 3 < N ? v[i + 3] : none, four);
        UNROLL for (int j = 0; j < 4; j++)
            if (i + j < N) out[i + j] = four[j];
    }
}

// e^x to about one unit in the last place: 2^n e^r with |r| <= ln 2 / 2 and e^r by its Taylor series.
F exponential(F x) {
    x = Lanes::min(Lanes::set(88.0f), Lanes::max(Lanes::set(-87.0f), x));  // in this order NaN stays NaN
    const F n = Lanes::round(Lanes::mul(x, Lanes::set(1.44269504f)));
    F r = Lanes::fma(n, Lanes::set(-0.693359375f), x);  // ln 2 in two parts, the first exact in few bits
    r = Lanes::fma(n, Lanes::set(2.12194440e-4f), r);
    F y = Lanes::set(1.0f / 5040);
    y = Lanes::fma(y, r, Lanes::set(1.0f / 720));
    y = Lanes::fma(y, r, Lanes::set(1.0f / 120));
    y = Lanes::fma(y, r, Lanes::set(1.0f / 24));
    y = Lanes::fma(y, r, Lanes::set(1.0f / 6));
    y = Lanes::fma(y, r, Lanes::set(0.5f));
    y = Lanes::fma(y, r, Lanes::set(1.0f));
    y = Lanes::fma(y, r, Lanes::set(1.0f));
    return Lanes::mul(y, Lanes::power2(n));
}

// ---------------------------------------------------------------------------------------------------- activations

float largest(const float *x, int64_t size) {
    F most = Lanes::set(0.0f);
    for (int64_t k = 0; k < size; k += W) most = Lanes::max(most, Lanes::abs(part(x + k, size - k)));
    return Lanes::maximum(most);
}

// Codes of one run of numbers, as x / scale rounded to the nearest, ties to even; returns their sum.
int32_t round_codes(const float *x, int64_t size, float scale, int8_t *codes) {
    const F divisor = Lanes::set(scale);
    for (int64_t k = 0; k < size; k += W) Lanes::store_i8(codes + k, Lanes::round(Lanes::div(Lanes::load(x + k), divisor)));
    int32_t sum = 0;
    for (int64_t k = 0; k < size; k++) sum += codes[k];
    return sum;
}

void prepare(const Activations &a, int64_t rows, int64_t columns, int64_t kind, int64_t group) {
    for (int64_t t = 0; t < rows; t++) {
        float *x = a.x + t * a.padded;
        for (int64_t k = columns; k < a.padded; k++) x[k] = 0.0f;
        if (kind == DYNO_I8_DYNAMIC) {
            const float scale = largest(x, columns) * (1.0f / 127);
            a.scale[t] = scale > 1e-30f ? scale : 1e-30f;
            a.offset[t] = round_codes(x, a.padded, a.scale[t], a.codes + t * a.padded);
        } else if (kind == DYNO_I4) {
            const int64_t blocks = a.padded / kBlock;
            float *sums = a.sums + t * blocks;
            for (int64_t b = 0; b < blocks; b++) {
                const float most = largest(x + b * kBlock, kBlock) * (1.0f / 127);
                const float scale = most > 1e-30f ? most : 1e-30f;
                const int32_t sum = round_codes(x + b * kBlock, kBlock, scale, a.codes + t * a.padded + b * kBlock);
                a.scale[t * blocks + b] = scale, a.offset[t * blocks + b] = -8 * sum;
                const int64_t g = b * kBlock / group;
                sums[g] = (b * kBlock % group ? sums[g] : 0.0f) + scale * float(sum);
            }
        }
    }
}

#include "products.inl"

// ---------------------------------------------------------------------------------------------- norms, activations

// Root-mean-square norm, or with `layer_norm` the mean taken off and a bias added.
void norm(const float *x, int64_t size, const dyno_vector &weight, const dyno_vector &bias, float eps, bool layer_norm,
          float *out) {
    float mean = 0.0f;
    if (layer_norm) {
        F sum = Lanes::set(0.0f);
        for (int64_t k = 0; k < size; k += W) sum = Lanes::add(sum, part(x + k, size - k));
        mean = Lanes::sum(sum) / float(size);
    }
    const F middle = Lanes::set(mean);
    F squares = Lanes::set(0.0f);
    int64_t k = 0;
    for (; k + W <= size; k += W) {
        const F d = Lanes::sub(Lanes::load(x + k), middle);
        squares = Lanes::fma(d, d, squares);
    }
    float rest = 0.0f;
    for (; k < size; k++) rest += (x[k] - mean) * (x[k] - mean);
    const F factor = Lanes::set(1.0f / sqrtf((Lanes::sum(squares) + rest) / float(size) + eps));
    for (k = 0; k < size; k += W) {
        F v = Lanes::mul(Lanes::sub(part(x + k, size - k), middle), factor);
        v = Lanes::mul(v, numbers(weight, k, size));
        if (bias.data) v = Lanes::add(v, numbers(bias, k, size));
        put(out + k, v, size - k);
    }
}

// Rotary positions turn the pair (i, i + r/2) of the first r channels by its angle: Su et al., "RoFormer", 2021, in the half-split order.
void head(const Head &h, float *v, int64_t size) {
    if (h.norm.data) norm(v, size, h.norm, dyno_vector{}, h.eps, false, v);
    if (h.cosine) {
        const int64_t half = h.turned / 2;
        for (int64_t i = 0; i < half; i += W) {
            const F a = part(v + i, half - i), b = part(v + half + i, half - i);
            const F c = part(h.cosine + i, half - i), s = part(h.sine + i, half - i);
            put(v + i, Lanes::sub(Lanes::mul(a, c), Lanes::mul(b, s)), half - i);
            put(v + half + i, Lanes::fma(a, s, Lanes::mul(b, c)), half - i);
        }
    }
    if (h.factor != 1.0f)
        for (int64_t i = 0; i < size; i++) v[i] *= h.factor;
}

// most tanh(x / most), with tanh(u) = 1 - 2 / (e^2u + 1).
void cap(float *x, int64_t size, float most) {
    const F one = Lanes::set(1.0f), two = Lanes::set(2.0f), limit = Lanes::set(most), inverse = Lanes::set(2.0f / most);
    for (int64_t i = 0; i < size; i += W) {
        const F e = exponential(Lanes::mul(part(x + i, size - i), inverse));
        put(x + i, Lanes::mul(limit, Lanes::sub(one, Lanes::div(two, Lanes::add(e, one)))), size - i);
    }
}

F activated(F x, int64_t kind) {
    const F one = Lanes::set(1.0f);
    if (kind == DYNO_RELU) return Lanes::max(Lanes::set(0.0f), x);
    F inner = x;  // x sigmoid(inner): tanh(u) = 2 sigmoid(2u) - 1 turns the tanh form of GELU into it
    if (kind == DYNO_GELU_TANH) {
        const F cubed = Lanes::mul(Lanes::mul(x, x), x);
        inner = Lanes::mul(Lanes::set(1.5957691216f), Lanes::fma(cubed, Lanes::set(0.044715f), x));  // 2 sqrt(2 / pi)
    }
    return Lanes::div(x, Lanes::add(one, exponential(Lanes::sub(Lanes::set(0.0f), inner))));
}

void activate(float *gate, const float *up, int64_t size, int64_t kind) {
    if (kind == DYNO_GELU) {
        for (int64_t i = 0; i < size; i++) {
            const float y = 0.5f * gate[i] * (1.0f + erff(gate[i] * 0.70710678f));
            gate[i] = up ? y * up[i] : y;
        }
        return;
    }
    for (int64_t i = 0; i < size; i += W) {
        F y = activated(part(gate + i, size - i), kind);
        if (up) y = Lanes::mul(y, part(up + i, size - i));
        put(gate + i, y, size - i);
    }
}

#include "attention.inl"

// --------------------------------------------------------------------------------------------------- single numbers

// int8 codes with one scale, as Int8KVCache in engine/models/gpt.py keeps them, or the number in 16 or 32 bits.
void remember(const float *v, int64_t size, int64_t kind, void *row, float *scale) {
    if (kind == DYNO_I8) {
        const float most = largest(v, size) * (1.0f / 127);
        *scale = most > 1e-30f ? most : 1e-30f;
        for (int64_t i = 0; i < size; i++) ((int8_t *)row)[i] = int8_t(rintf(v[i] / *scale));
        return;
    }
    for (int64_t i = 0; i < size; i++) {
        if (kind == DYNO_BF16) ((Bf16 *)row)[i] = to_bf16(v[i]);
        else if (kind == DYNO_F16) ((F16 *)row)[i] = to_f16(v[i]);
        else ((float *)row)[i] = v[i];
    }
}

void lookup(const dyno_table &table, int64_t row, int64_t size, bool add, float *out) {
    const dyno_vector all{table.data, table.kind};
    for (int64_t i = 0; i < size; i++) {
        const int64_t at = row * size + i;
        float v = table.kind == DYNO_I8 ? float(((const int8_t *)table.data)[at]) * number(table.scale, row) : number(all, at);
        if (table.round_to == DYNO_BF16) v = widen(to_bf16(v));
        if (table.round_to == DYNO_F16) v = widen(to_f16(v));
        out[i] = add ? out[i] + v : v;
    }
}

// Half a block in bf16. The loops are for the compiler to turn into vectors, so nothing here asks for NaN: there is none.
void unpack_half(const int8_t *codes, float scale, float zero, uint16_t *out) {
    for (int i = 0; i < kBlock / 2; i++) {
        const uint32_t bits = to_bits(float(codes[i]) * scale + zero);
        out[i] = uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
    }
}

void unpack(const dyno_matrix &w, int64_t first, int64_t last, uint16_t *out) {
    const int64_t groups = (w.columns + w.group - 1) / w.group;
    for (int64_t n = first; n < last; n++, out += w.columns) {
        const int64_t panel = n / kPanel, lane = n % kPanel;
        const uint8_t *codes = (const uint8_t *)w.data + panel * kPanel * w.stride + 4 * lane;
        for (int64_t k = 0; k < w.columns; k += kBlock, codes += kPanel * kBlock / 2) {
            const Bf16 *scales = (const Bf16 *)w.scale.data + 2 * (panel * groups + k / w.group) * kPanel + lane;
            const float scale = widen(scales[0]), zero = widen(scales[kPanel]);
            uint8_t both[kBlock / 2];
            for (int j = 0; j < 4; j++) __builtin_memcpy(both + 4 * j, codes + j * 4 * kPanel, 4);
            int8_t low[kBlock / 2], high[kBlock / 2];
            for (int i = 0; i < kBlock / 2; i++) low[i] = int8_t((both[i] & 15) - 8), high[i] = int8_t((both[i] >> 4) - 8);
            const int64_t left = w.columns - k;
            uint16_t part[kBlock], *whole = left < kBlock ? part : out + k;
            unpack_half(low, scale, zero, whole);
            unpack_half(high, scale, zero, whole + kBlock / 2);
            if (left < kBlock) __builtin_memcpy(out + k, part, size_t(left) * 2);
        }
    }
}

#include "likeliest.inl"

const Kernels *table(int isa, const char *name) {
    static const Kernels kernels{isa, name, prepare, product, norm, head, remember, attend, combine, activate, lookup,
                                 cap, unpack, likeliest};
    return &kernels;
}

}  // namespace
