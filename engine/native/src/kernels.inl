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

// ------------------------------------------------------------------------------------------------------- products

void finish(const dyno_matrix &w, int64_t n, float value, float *y, bool add) {
    if (w.bias.data) value += number(w.bias, n);
    *y = add ? *y + value : value;
}

// R rows of a weight at once, `apart` from one to the next, each read from its begin to its end: a few long streams
// keep the memory busier than one does, and a row's neighbours at once, which are many short ones, less.
template <class E, int R, int T>
void float_rows(const dyno_matrix &w, int64_t n, int64_t apart, const float *x, int64_t padded, float *y, int64_t stride,
                bool add) {
    const E *row[R];
    F sums[R * T];
    UNROLL for (int r = 0; r < R; r++) {
        row[r] = (const E *)((const char *)w.data + (n + r * apart) * w.stride);
        UNROLL for (int t = 0; t < T; t++) sums[r * T + t] = Lanes::set(0.0f);
    }
    int64_t k = 0;
    for (; k + W <= w.columns; k += W) {
        UNROLL for (int r = 0; r < R; r++) {
            const F weight = Lanes::load(row[r] + k);
            UNROLL for (int t = 0; t < T; t++)
                sums[r * T + t] = Lanes::fma(weight, Lanes::load(x + t * padded + k), sums[r * T + t]);
        }
    }
    if (k < w.columns) {
        UNROLL for (int r = 0; r < R; r++) {
            const F weight = Lanes::load_part(row[r] + k, int(w.columns - k));
            UNROLL for (int t = 0; t < T; t++)
                sums[r * T + t] = Lanes::fma(weight, Lanes::load(x + t * padded + k), sums[r * T + t]);
        }
    }
    float total[R * T];
    totals(sums, total);
    UNROLL for (int r = 0; r < R; r++) {
        const int64_t at = n + r * apart;
        const float scale = w.scale.data ? number(w.scale, at) : 1.0f;
        UNROLL for (int t = 0; t < T; t++) finish(w, at, total[r * T + t] * scale, y + t * stride + at, add);
    }
}

template <int R, int T>
void i8_rows(const dyno_matrix &w, int64_t n, int64_t apart, const Activations &a, int64_t from, float *y, int64_t stride,
             bool add) {
    const int8_t *x = a.codes + from * a.padded, *row[R];
    I sums[R][T];
    UNROLL for (int r = 0; r < R; r++) {
        row[r] = (const int8_t *)w.data + (n + r * apart) * w.stride;
        UNROLL for (int t = 0; t < T; t++) sums[r][t] = Lanes::zero();
    }
    int64_t k = 0;
    for (; k + 4 * W <= w.columns; k += 4 * W) {
        UNROLL for (int r = 0; r < R; r++) {
            const I weight = Lanes::bytes(row[r] + k);
            UNROLL for (int t = 0; t < T; t++)
                sums[r][t] = Lanes::dot_i8(sums[r][t], weight, Lanes::bytes(x + t * a.padded + k));
        }
    }
    if (k < w.columns) {
        UNROLL for (int r = 0; r < R; r++) {
            const I weight = Lanes::bytes_part(row[r] + k, int(w.columns - k));
            UNROLL for (int t = 0; t < T; t++)
                sums[r][t] = Lanes::dot_i8(sums[r][t], weight, Lanes::bytes(x + t * a.padded + k));
        }
    }
    UNROLL for (int r = 0; r < R; r++) {
        const int64_t at = n + r * apart;
        const float scale = number(w.scale, at);
        UNROLL for (int t = 0; t < T; t++) {
            const int32_t total = Lanes::sum_i32(sums[r][t]) - Lanes::kI8Offset * a.offset[from + t];
            finish(w, at, float(total) * a.scale[from + t] * scale, y + t * stride + at, add);
        }
    }
}

template <class E, int R, int T>
void product_float(const dyno_matrix &w, int64_t first, int64_t last, const Activations &a, int64_t from, float *y,
                   int64_t stride, bool add) {
    const float *x = a.x + from * a.padded;
    const int64_t apart = (last - first) / R;
    for (int64_t n = first; n < first + apart; n++) float_rows<E, R, T>(w, n, apart, x, a.padded, y, stride, add);
    for (int64_t n = first + R * apart; n < last; n++) float_rows<E, 1, T>(w, n, 0, x, a.padded, y, stride, add);
}

template <int R, int T>
void product_i8(const dyno_matrix &w, int64_t first, int64_t last, const Activations &a, int64_t from, float *y,
                int64_t stride, bool add) {
    const int64_t apart = (last - first) / R;
    for (int64_t n = first; n < first + apart; n++) i8_rows<R, T>(w, n, apart, a, from, y, stride, add);
    for (int64_t n = first + R * apart; n < last; n++) i8_rows<1, T>(w, n, 0, a, from, y, stride, add);
}

// W rows of a panel from row n on: every lane sums a row of its own, so nothing is added across lanes.
template <int T>
void i4_rows(const dyno_matrix &w, int64_t n, const Activations &a, int64_t from, F (&sums)[T]) {
    const int64_t groups = (w.columns + w.group - 1) / w.group, panel = n / kPanel, lane = n % kPanel;
    const int64_t blocks = a.padded / kBlock;
    const uint8_t *codes = (const uint8_t *)w.data + panel * kPanel * w.stride + 4 * lane;
    const Bf16 *scales = (const Bf16 *)w.scale.data + 2 * panel * kPanel * groups + lane;
    const int8_t *x = a.codes + from * a.padded;
    const float *scale = a.scale + from * blocks, *sum = a.sums + from * blocks;
    const int32_t *offset = a.offset + from * blocks;
    UNROLL for (int t = 0; t < T; t++) sums[t] = Lanes::set(0.0f);
    for (int64_t g = 0, b = 0; g < groups; g++, scales += 2 * kPanel) {
        F of_group[T];
        UNROLL for (int t = 0; t < T; t++) of_group[t] = Lanes::set(0.0f);
        for (const int64_t end = (g + 1) * w.group / kBlock; b < end; b++, codes += kPanel * kBlock / 2) {
            I dots[T];
            UNROLL for (int t = 0; t < T; t++) dots[t] = Lanes::set_i32(offset[t * blocks + b]);
            UNROLL for (int j = 0; j < 4; j++) {
                const I both = Lanes::bytes(codes + j * 4 * kPanel), lower = Lanes::low(both), upper = Lanes::high(both);
                UNROLL for (int t = 0; t < T; t++) {
                    const int8_t *four = x + t * a.padded + b * kBlock + 4 * j;
                    dots[t] = Lanes::dot_u8(dots[t], lower, Lanes::four(four));
                    dots[t] = Lanes::dot_u8(dots[t], upper, Lanes::four(four + kBlock / 2));
                }
            }
            UNROLL for (int t = 0; t < T; t++)
                of_group[t] = Lanes::fma(Lanes::to_float(dots[t]), Lanes::set(scale[t * blocks + b]), of_group[t]);
        }
        const F weight = Lanes::load(scales), zero = Lanes::load(scales + kPanel);
        UNROLL for (int t = 0; t < T; t++) {
            sums[t] = Lanes::fma(of_group[t], weight, sums[t]);
            sums[t] = Lanes::fma(zero, Lanes::set(sum[t * blocks + g]), sums[t]);
        }
    }
}

template <int T>
void product_i4(const dyno_matrix &w, int64_t first, int64_t last, const Activations &a, int64_t from, float *y,
                int64_t stride, bool add) {
    for (int64_t n = first / W * W; n < last; n += W) {
        F sums[T];
        i4_rows<T>(w, n, a, from, sums);
        const bool whole = n >= first && n + W <= last;
        const F bias = whole && w.bias.data ? numbers(w.bias, n, w.rows) : Lanes::set(0.0f);
        UNROLL for (int t = 0; t < T; t++) {
            float *out = y + t * stride + n;
            if (whole) {
                const F value = Lanes::add(sums[t], bias);
                Lanes::store(out, add ? Lanes::add(Lanes::load(out), value) : value);
                continue;
            }
            float each[W];
            Lanes::store(each, sums[t]);
            for (int64_t i = n < first ? first - n : 0; i < W && n + i < last; i++) finish(w, n + i, each[i], out + i, add);
        }
    }
}

template <int R, int T>
void product_rows(const dyno_matrix &w, int64_t first, int64_t last, const Activations &a, int64_t from, float *y,
                  int64_t stride, bool add) {
    y += from * stride;
    switch (w.kind) {
        case DYNO_F32: return product_float<float, R, T>(w, first, last, a, from, y, stride, add);
        case DYNO_BF16: return product_float<Bf16, R, T>(w, first, last, a, from, y, stride, add);
        case DYNO_F16: return product_float<F16, R, T>(w, first, last, a, from, y, stride, add);
        case DYNO_I8: return product_float<int8_t, R, T>(w, first, last, a, from, y, stride, add);
        case DYNO_I8_DYNAMIC: return product_i8<R, T>(w, first, last, a, from, y, stride, add);
        default: return product_i4<T>(w, first, last, a, from, y, stride, add);
    }
}

void product(const dyno_matrix &w, int64_t first, int64_t last, const Activations &a, int64_t rows, float *y,
             int64_t stride, bool add) {
    int64_t from = 0;
    for (; from + kTogether <= rows; from += kTogether) product_rows<2, kTogether>(w, first, last, a, from, y, stride, add);
    if (rows - from == 3) product_rows<2, 3>(w, first, last, a, from, y, stride, add);
    else if (rows - from == 2) product_rows<2, 2>(w, first, last, a, from, y, stride, add);
    else if (rows - from == 1 && w.columns < kShort) product_rows<4, 1>(w, first, last, a, from, y, stride, add);
    else if (rows - from == 1) product_rows<2, 1>(w, first, last, a, from, y, stride, add);
}

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

// ------------------------------------------------------------------------------------------------------ attention

// Scores of N positions from p on, all queries together.
template <class E, int Q, int N>
void scores_at(const AttentionTask &task, int64_t first_query, int64_t p, float *scores) {
    const int64_t size = task.size, count = task.last - task.first;
    const E *key = (const E *)task.keys + (task.first + p) * size;
    F sums[Q * N];
    UNROLL for (int i = 0; i < Q * N; i++) sums[i] = Lanes::set(0.0f);
    for (int64_t i = 0; i < size; i += W) {
        F q[Q];
        UNROLL for (int r = 0; r < Q; r++) q[r] = part(task.q + (first_query + r) * size + i, size - i);
        UNROLL for (int j = 0; j < N; j++) {
            const F k = part(key + j * size + i, size - i);
            UNROLL for (int r = 0; r < Q; r++) sums[r * N + j] = Lanes::fma(k, q[r], sums[r * N + j]);
        }
    }
    float total[Q * N];
    totals(sums, total);
    UNROLL for (int j = 0; j < N; j++) {
        const float scale = task.key_scale ? task.key_scale[task.first + p + j] : 1.0f;
        UNROLL for (int r = 0; r < Q; r++) scores[r * count + p + j] = total[r * N + j] * scale;
    }
}

template <class E, int Q> void scores_of(const AttentionTask &task, int64_t first_query, float *scores) {
    constexpr int N = sizeof(E) == 4 ? 1 : 4;  // fp32 keys are read fastest one after the other
    const int64_t count = task.last - task.first;
    int64_t p = 0;
    for (; p + N <= count; p += N) scores_at<E, Q, N>(task, first_query, p, scores);
    for (; p < count; p++) scores_at<E, Q, 1>(task, first_query, p, scores);
}

constexpr int kLongestQuery = 256;  // up to which a query fits the room below

// A query in 22 bits, for products with int8 keys in whole numbers that are as good as fp32's:
// q = (2^14 high + 2^7 middle + low) scale.
struct Query {
    int8_t code[3][kLongestQuery];  // filled up with zeros to whole vectors
    I from[3];  // what sums start from, so that dot_i8 needs no correction
    float scale;

    void set(const float *q, int64_t size) {
        const float most = largest(q, size) * (1.0f / (127 << 14));
        scale = most > 1e-30f ? most : 1e-30f;
        const int64_t filled = (size + 4 * W - 1) / (4 * W) * (4 * W);
        for (int64_t i = 0; i < filled; i += W) {
            F rest = Lanes::round(Lanes::div(i < size ? part(q + i, size - i) : Lanes::set(0.0f), Lanes::set(scale)));
            for (int c = 0; c < 3; c++) {
                const float unit = float(1 << 7 * (2 - c));
                const F whole = Lanes::round(Lanes::mul(rest, Lanes::set(1 / unit)));
                Lanes::store_i8(code[c] + i, whole);
                rest = Lanes::fma(whole, Lanes::set(-unit), rest);
            }
        }
        for (int c = 0; c < 3; c++) {
            from[c] = Lanes::zero();
            for (int64_t i = 0; i < filled; i += 4 * W)
                from[c] = Lanes::sub_i32(from[c], Lanes::dot_i8(Lanes::zero(), Lanes::zero(), Lanes::bytes(code[c] + i)));
        }
    }
};

template <int Q, int N> void scores_i8_at(const AttentionTask &task, const Query (&query)[Q], int64_t p, float *scores) {
    const int64_t size = task.size, count = task.last - task.first;
    F sums[Q * N];
    UNROLL for (int j = 0; j < N; j++) {
        const int8_t *key = (const int8_t *)task.keys + (task.first + p + j) * size;
        I dots[Q][3];
        UNROLL for (int r = 0; r < Q; r++)
            UNROLL for (int c = 0; c < 3; c++) dots[r][c] = query[r].from[c];
        for (int64_t i = 0; i < size; i += 4 * W) {
            const I k = size - i >= 4 * W ? Lanes::bytes(key + i) : Lanes::bytes_part(key + i, int(size - i));
            UNROLL for (int r = 0; r < Q; r++)
                UNROLL for (int c = 0; c < 3; c++) dots[r][c] = Lanes::dot_i8(dots[r][c], k, Lanes::bytes(query[r].code[c] + i));
        }
        UNROLL for (int r = 0; r < Q; r++) {
            const F low = Lanes::fma(Lanes::to_float(dots[r][1]), Lanes::set(1 << 7), Lanes::to_float(dots[r][2]));
            sums[r * N + j] = Lanes::fma(Lanes::to_float(dots[r][0]), Lanes::set(1 << 14), low);
        }
    }
    float total[Q * N];
    totals(sums, total);
    UNROLL for (int r = 0; r < Q; r++)
        UNROLL for (int j = 0; j < N; j++)
            scores[r * count + p + j] = total[r * N + j] * query[r].scale * task.key_scale[task.first + p + j];
}

template <int Q> void scores_i8(const AttentionTask &task, int64_t first_query, float *scores) {
    const int64_t count = task.last - task.first;
    Query query[Q];
    for (int r = 0; r < Q; r++) query[r].set(task.q + (first_query + r) * task.size, task.size);
    int64_t p = 0;
    for (; p + 4 <= count; p += 4) scores_i8_at<Q, 4>(task, query, p, scores);
    for (; p < count; p++) scores_i8_at<Q, 1>(task, query, p, scores);
}

constexpr int kSlice = 4;  // vectors of a value summed at a time

template <class E, int Q> void values_of(const AttentionTask &task, const float *weights, float *out) {
    const int64_t size = task.size, count = task.last - task.first;
    for (int64_t i = 0; i < size; i += kSlice * W) {
        F sums[Q][kSlice];
        UNROLL for (int r = 0; r < Q; r++)
            UNROLL for (int u = 0; u < kSlice; u++) sums[r][u] = Lanes::set(0.0f);
        const bool whole = i + kSlice * W <= size;
        for (int64_t p = 0; p < count; p++) {
            const E *value = (const E *)task.values + (task.first + p) * size + i;
            F v[kSlice];
            UNROLL for (int u = 0; u < kSlice; u++) {
                const int64_t left = size - i - u * W;
                v[u] = whole ? Lanes::load(value + u * W) : left > 0 ? part(value + u * W, left) : Lanes::set(0.0f);
            }
            UNROLL for (int r = 0; r < Q; r++) {
                const F weight = Lanes::set(weights[r * count + p]);
                UNROLL for (int u = 0; u < kSlice; u++) sums[r][u] = Lanes::fma(weight, v[u], sums[r][u]);
            }
        }
        UNROLL for (int r = 0; r < Q; r++)
            UNROLL for (int u = 0; u < kSlice; u++)
                if (i + u * W < size) put(out + r * task.out_stride + i + u * W, sums[r][u], size - i - u * W);
    }
}

// Q queries from q on, which share one reading of the keys and one of the values.
template <class E, int Q> void attend_together(const AttentionTask &task, int64_t q) {
    const int64_t size = task.size, count = task.last - task.first;
    float *out = task.out + q * task.out_stride;
    if (sizeof(E) == 1 && size <= kLongestQuery) scores_i8<Q>(task, q, task.scores);
    else scores_of<E, Q>(task, q, task.scores);
    for (int r = 0; r < Q; r++) {
        float *s = task.scores + r * count;
        if (task.cap) cap(s, count, task.cap);
        F most = Lanes::set(s[0]);
        int64_t p = 0;
        for (; p + W <= count; p += W) most = Lanes::max(most, Lanes::load(s + p));
        float top = Lanes::maximum(most);
        for (; p < count; p++) top = s[p] > top ? s[p] : top;
        F sum = Lanes::set(0.0f);
        for (p = 0; p + W <= count; p += W) {
            const F e = exponential(Lanes::sub(Lanes::load(s + p), Lanes::set(top)));
            sum = Lanes::add(sum, e);
            Lanes::store(s + p, e);
        }
        float total = Lanes::sum(sum);
        if (p < count) {
            put(s + p, exponential(Lanes::sub(part(s + p, count - p), Lanes::set(top))), count - p);
            for (; p < count; p++) total += s[p];
        }
        out[r * task.out_stride + size] = top;
        out[r * task.out_stride + size + 1] = total;
        if (task.value_scale)
            for (p = 0; p < count; p++) s[p] *= task.value_scale[task.first + p];
    }
    values_of<E, Q>(task, task.scores, out);
}

template <class E> void attend_to(const AttentionTask &task) {
    int64_t q = 0;
    for (; q + 4 <= task.queries; q += 4) attend_together<E, 4>(task, q);
    if (task.queries - q == 3) attend_together<E, 3>(task, q);
    else if (task.queries - q == 2) attend_together<E, 2>(task, q);
    else if (task.queries - q == 1) attend_together<E, 1>(task, q);
}

void attend(const AttentionTask &task) {
    switch (task.kind) {
        case DYNO_F32: return attend_to<float>(task);
        case DYNO_BF16: return attend_to<Bf16>(task);
        case DYNO_F16: return attend_to<F16>(task);
        default: return attend_to<int8_t>(task);
    }
}

// Softmax over parts: sum_s e^(m_s - m) v_s / sum_s e^(m_s - m) l_s, m the largest maximum.
void combine(const float *parts, int64_t count, int64_t size, float *out) {
    float top = parts[size], total = 0.0f;
    for (int64_t s = 1; s < count; s++) top = parts[s * (size + 2) + size] > top ? parts[s * (size + 2) + size] : top;
    for (int64_t s = 0; s < count; s++) {
        const float *p = parts + s * (size + 2);
        const float factor = count == 1 ? 1.0f : expf(p[size] - top);
        total += factor * p[size + 1];
        for (int64_t i = 0; i < size; i += W) {
            F sum = Lanes::mul(Lanes::set(factor), part(p + i, size - i));
            if (s) sum = Lanes::add(sum, part(out + i, size - i));
            put(out + i, sum, size - i);
        }
    }
    const F share = Lanes::set(1.0f / total);
    for (int64_t i = 0; i < size; i += W) put(out + i, Lanes::mul(part(out + i, size - i), share), size - i);
}

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

const Kernels *table(int isa, const char *name) {
    static const Kernels kernels{isa, name, prepare, product, norm, head, remember, attend, combine, activate, lookup,
                                 cap, unpack};
    return &kernels;
}

}  // namespace
