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
constexpr int kUnroll = 4;    // sums in flight for each row of activations
constexpr int kTogether = 4;  // rows of activations that share one reading of a weight

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

// e^x to about one unit in the last place: 2^n e^r with |r| <= ln 2 / 2 and e^r by its Taylor series.
F exponential(F x) {
    x = Lanes::min(Lanes::max(x, Lanes::set(-87.0f)), Lanes::set(88.0f));
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
            int8_t *low = a.codes + t * a.padded, *high = low + a.padded / 2;
            float *scales = a.scale + t * (a.padded / 8), *sums = a.sums + t * (a.padded / 32);
            int32_t *offsets = a.offset + t * (a.padded / 8);
            for (int64_t b = 0; b < a.padded / 32; b++) {
                const float most = largest(x + b * 32, 32) * (1.0f / 127);
                const float scale = most > 1e-30f ? most : 1e-30f;
                int32_t sum = round_codes(x + b * 32, 16, scale, low + b * 16);
                sum += round_codes(x + b * 32 + 16, 16, scale, high + b * 16);
                for (int i = 0; i < 4; i++) scales[4 * b + i] = scale, offsets[4 * b + i] = i ? 0 : -8 * sum;
                const int64_t g = b * 32 / group;
                sums[g] = (b * 32 % group ? sums[g] : 0.0f) + scale * float(sum);
            }
        }
    }
}

// ------------------------------------------------------------------------------------------------------- products

void finish(const dyno_matrix &w, int64_t n, float value, float *y, bool add) {
    if (w.bias.data) value += number(w.bias, n);
    *y = add ? *y + value : value;
}

template <class E, int T>
void product_float(const dyno_matrix &w, int64_t first, int64_t last, const float *x, int64_t padded, float *y,
                   int64_t stride, bool add) {
    const int64_t columns = w.columns;
    for (int64_t n = first; n < last; n++) {
        const E *row = (const E *)((const char *)w.data + n * w.stride);
        F sums[T][kUnroll];
        for (int t = 0; t < T; t++)
            for (int u = 0; u < kUnroll; u++) sums[t][u] = Lanes::set(0.0f);
        int64_t k = 0;
        for (; k + kUnroll * W <= columns; k += kUnroll * W) {
            for (int u = 0; u < kUnroll; u++) {
                const F weight = Lanes::load(row + k + u * W);
                for (int t = 0; t < T; t++)
                    sums[t][u] = Lanes::fma(weight, Lanes::load(x + t * padded + k + u * W), sums[t][u]);
            }
        }
        for (; k < columns; k += W) {
            const F weight = part(row + k, columns - k);
            for (int t = 0; t < T; t++) sums[t][0] = Lanes::fma(weight, Lanes::load(x + t * padded + k), sums[t][0]);
        }
        const float scale = w.scale.data ? number(w.scale, n) : 1.0f;
        for (int t = 0; t < T; t++) {
            const F total = Lanes::add(Lanes::add(sums[t][0], sums[t][1]), Lanes::add(sums[t][2], sums[t][3]));
            finish(w, n, Lanes::sum(total) * scale, y + t * stride + n, add);
        }
    }
}

template <int T>
void product_i8(const dyno_matrix &w, int64_t first, int64_t last, const Activations &a, int64_t from, float *y,
                int64_t stride, bool add) {
    const int8_t *x = a.codes + from * a.padded;
    for (int64_t n = first; n < last; n++) {
        const int8_t *row = (const int8_t *)w.data + n * w.stride;
        I sums[T][2];
        for (int t = 0; t < T; t++) sums[t][0] = sums[t][1] = Lanes::zero();
        int64_t k = 0;
        for (; k + 8 * W <= w.columns; k += 8 * W) {
            for (int u = 0; u < 2; u++) {
                const I weight = Lanes::bytes(row + k + u * 4 * W);
                for (int t = 0; t < T; t++)
                    sums[t][u] = Lanes::dot_i8(sums[t][u], weight, Lanes::bytes(x + t * a.padded + k + u * 4 * W));
            }
        }
        for (; k < w.columns; k += 4 * W) {
            const int64_t left = w.columns - k;
            const I weight = left >= 4 * W ? Lanes::bytes(row + k) : Lanes::bytes_part(row + k, int(left));
            for (int t = 0; t < T; t++)
                sums[t][0] = Lanes::dot_i8(sums[t][0], weight, Lanes::bytes(x + t * a.padded + k));
        }
        const float scale = number(w.scale, n);
        for (int t = 0; t < T; t++) {
            const int32_t total = Lanes::sum_i32(Lanes::add_i32(sums[t][0], sums[t][1]))
                - Lanes::kI8Offset * a.offset[from + t];
            finish(w, n, float(total) * a.scale[from + t] * scale, y + t * stride + n, add);
        }
    }
}

template <int T>
void product_i4(const dyno_matrix &w, int64_t first, int64_t last, const Activations &a, int64_t from, float *y,
                int64_t stride, bool add) {
    constexpr int kBlocks = W / 4;  // of 32 columns in one vector of codes
    const int64_t groups = (w.columns + w.group - 1) / w.group, blocks = groups * w.group / 32;
    const int64_t scale_step = w.group / 32;
    const int8_t *low = a.codes + from * a.padded;
    for (int64_t n = first; n < last; n++) {
        const uint8_t *row = (const uint8_t *)w.data + n * w.stride;
        const uint16_t *scales = (const uint16_t *)w.scale.data + n * groups;
        const Bf16 *zeros = (const Bf16 *)w.zero.data + n * groups;
        F sums[T][2];
        for (int t = 0; t < T; t++) sums[t][0] = sums[t][1] = Lanes::set(0.0f);
        int u = 0;
        for (int64_t b = 0; b < blocks; b += kBlocks, u ^= 1) {
            const I codes = Lanes::bytes(row + b * 16), lower = Lanes::low(codes), upper = Lanes::high(codes);
            const F scale = Lanes::spread(scales + b / scale_step, w.group);
            for (int t = 0; t < T; t++) {
                const int8_t *x = low + t * a.padded + b * 16;
                I dot = Lanes::load_i32(a.offset + (from + t) * (a.padded / 8) + 4 * b);
                dot = Lanes::dot_u8(dot, lower, Lanes::bytes(x));
                dot = Lanes::dot_u8(dot, upper, Lanes::bytes(x + a.padded / 2));
                const F both = Lanes::mul(scale, Lanes::load(a.scale + (from + t) * (a.padded / 8) + 4 * b));
                sums[t][u] = Lanes::fma(Lanes::to_float(dot), both, sums[t][u]);
            }
        }
        for (int64_t g = 0; g < groups; g += W) {
            const F zero = part(zeros + g, groups - g);
            for (int t = 0; t < T; t++)
                sums[t][0] = Lanes::fma(zero, part(a.sums + (from + t) * (a.padded / 32) + g, groups - g), sums[t][0]);
        }
        for (int t = 0; t < T; t++)
            finish(w, n, Lanes::sum(Lanes::add(sums[t][0], sums[t][1])), y + t * stride + n, add);
    }
}

template <int T>
void product_rows(const dyno_matrix &w, int64_t first, int64_t last, const Activations &a, int64_t from, float *y,
                  int64_t stride, bool add) {
    const float *x = a.x + from * a.padded;
    y += from * stride;
    switch (w.kind) {
        case DYNO_F32: return product_float<float, T>(w, first, last, x, a.padded, y, stride, add);
        case DYNO_BF16: return product_float<Bf16, T>(w, first, last, x, a.padded, y, stride, add);
        case DYNO_F16: return product_float<F16, T>(w, first, last, x, a.padded, y, stride, add);
        case DYNO_I8: return product_float<int8_t, T>(w, first, last, x, a.padded, y, stride, add);
        case DYNO_I8_DYNAMIC: return product_i8<T>(w, first, last, a, from, y, stride, add);
        default: return product_i4<T>(w, first, last, a, from, y, stride, add);
    }
}

void product(const dyno_matrix &w, int64_t first, int64_t last, const Activations &a, int64_t rows, float *y,
             int64_t stride, bool add) {
    int64_t from = 0;
    for (; from + kTogether <= rows; from += kTogether) product_rows<kTogether>(w, first, last, a, from, y, stride, add);
    if (rows - from == 3) product_rows<3>(w, first, last, a, from, y, stride, add);
    else if (rows - from == 2) product_rows<2>(w, first, last, a, from, y, stride, add);
    else if (rows - from == 1) product_rows<1>(w, first, last, a, from, y, stride, add);
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

// Rotary positions turn the pair (i, i + d/2) by its angle: Su et al., "RoFormer", 2021, in the half-split order.
void head(const Head &h, float *v, int64_t size) {
    if (h.norm.data) norm(v, size, h.norm, dyno_vector{}, h.eps, false, v);
    if (h.cosine) {
        const int64_t half = size / 2;
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

F activated(F x, int64_t kind) {
    const F one = Lanes::set(1.0f);
    if (kind == DYNO_RELU) return Lanes::max(x, Lanes::set(0.0f));
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

template <class E> void scores_of(const AttentionTask &task, int64_t first_query, int queries, float *scores) {
    const int64_t size = task.size, count = task.last - task.first;
    for (int64_t p = 0; p < count; p++) {
        const E *key = (const E *)task.keys + (task.first + p) * size;
        F sums[4];
        for (int r = 0; r < 4; r++) sums[r] = Lanes::set(0.0f);
        for (int64_t i = 0; i < size; i += W) {
            const F k = part(key + i, size - i);
            for (int r = 0; r < queries; r++)
                sums[r] = Lanes::fma(k, part(task.q + (first_query + r) * size + i, size - i), sums[r]);
        }
        const float scale = task.key_scale ? task.key_scale[task.first + p] : 1.0f;
        for (int r = 0; r < queries; r++) scores[r * count + p] = Lanes::sum(sums[r]) * scale;
    }
}

constexpr int kSlice = 4;  // vectors of a value summed at a time

template <class E> void values_of(const AttentionTask &task, int queries, const float *weights, float *out) {
    const int64_t size = task.size, count = task.last - task.first;
    for (int64_t i = 0; i < size; i += kSlice * W) {
        F sums[4][kSlice];
        for (int r = 0; r < 4; r++)
            for (int u = 0; u < kSlice; u++) sums[r][u] = Lanes::set(0.0f);
        const bool whole = i + kSlice * W <= size;
        for (int64_t p = 0; p < count; p++) {
            const E *value = (const E *)task.values + (task.first + p) * size + i;
            F v[kSlice];
            for (int u = 0; u < kSlice; u++) {
                const int64_t left = size - i - u * W;
                v[u] = whole ? Lanes::load(value + u * W) : left > 0 ? part(value + u * W, left) : Lanes::set(0.0f);
            }
            for (int r = 0; r < queries; r++) {
                const F weight = Lanes::set(weights[r * count + p]);
                for (int u = 0; u < kSlice; u++) sums[r][u] = Lanes::fma(weight, v[u], sums[r][u]);
            }
        }
        for (int r = 0; r < queries; r++)
            for (int u = 0; u < kSlice && i + u * W < size; u++)
                put(out + r * task.out_stride + i + u * W, sums[r][u], size - i - u * W);
    }
}

template <class E> void attend_to(const AttentionTask &task) {
    const int64_t size = task.size, count = task.last - task.first;
    for (int64_t q = 0; q < task.queries; q += 4) {
        const int queries = task.queries - q < 4 ? int(task.queries - q) : 4;
        float *out = task.out + q * task.out_stride;
        scores_of<E>(task, q, queries, task.scores);
        for (int r = 0; r < queries; r++) {
            float *s = task.scores + r * count;
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
        values_of<E>(task, queries, task.scores, out);
    }
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

void unpack(const dyno_matrix &w, int64_t first, int64_t last, uint16_t *out) {
    const int64_t groups = (w.columns + w.group - 1) / w.group;
    for (int64_t n = first; n < last; n++) {
        const uint8_t *row = (const uint8_t *)w.data + n * w.stride;
        uint16_t *y = out + (n - first) * w.columns;
        for (int64_t g = 0; g < groups; g++) {
            const float scale = number(w.scale, n * groups + g), zero = number(w.zero, n * groups + g);
            uint16_t levels[16];
            for (int c = 0; c < 16; c++) levels[c] = to_bf16(float(c - 8) * scale + zero).bits;
            const int64_t end = (g + 1) * w.group < w.columns ? (g + 1) * w.group : w.columns;
            for (int64_t k = g * w.group; k < end; k++) {
                const uint8_t both = row[k / 32 * 16 + k % 16];
                y[k] = levels[k % 32 < 16 ? both & 15 : both >> 4];
            }
        }
    }
}

const Kernels *table(int isa, const char *name) {
    static const Kernels kernels{isa, name, prepare, product, norm, head, remember, attend, combine, activate, lookup,
                                 unpack};
    return &kernels;
}

}  // namespace
