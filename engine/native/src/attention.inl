// Attention of a few queries over a stretch of the cache. A part of kernels.inl, inside its namespace.

// The cache is read in long rows, one position after the other. The processor's own reading ahead ends at a page, so what
// is this far on is asked for.
constexpr int64_t kAhead = 4096;  // bytes

template <class E> void read_ahead(const E *row, int64_t count) {
    for (int64_t i = 0; i < count * int64_t(sizeof(E)); i += 64) __builtin_prefetch((const char *)row + kAhead + i);
}

constexpr int kLongestQuery = 256;  // up to which a query fits the rooms below

// One load brings 2 W numbers of bf16, whose even and odd places are fp32 after a shift and after a mask. So queries and
// results are kept in that order, even places of each 2 W first, for as long as bf16 is read.
template <class E> constexpr bool kApart = false;
template <> constexpr bool kApart<Bf16> = true;

void take_apart(const float *from, int64_t size, float *to) {
    int64_t i = 0;
    for (; i + 2 * W <= size; i += 2 * W)
        for (int j = 0; j < W; j++) to[i + j] = from[i + 2 * j], to[i + W + j] = from[i + 2 * j + 1];
    for (; i < size; i++) to[i] = from[i];
}

void put_together(float *v, int64_t size) {
    for (int64_t i = 0; i < size; i += 2 * W) {
        float apart[2 * W];
        __builtin_memcpy(apart, v + i, sizeof apart);
        for (int j = 0; j < W; j++) v[i + 2 * j] = apart[j], v[i + 2 * j + 1] = apart[W + j];
    }
}

// Scores of N positions from p on, all queries together. q (Q, size) is in the cache's order where Apart.
template <class E, bool Apart, int Q, int N>
void scores_at(const AttentionTask &task, const float *q, int64_t p, float *scores) {
    const int64_t size = task.size, count = task.last - task.first;
    const E *key = (const E *)task.keys + (task.first + p) * size;
    read_ahead(key, N * size);
    F sums[Q * N];
    UNROLL for (int i = 0; i < Q * N; i++) sums[i] = Lanes::set(0.0f);
    int64_t i = 0;
    if constexpr (Apart) {
        for (; i + 2 * W <= size; i += 2 * W)
            UNROLL for (int j = 0; j < N; j++) {
                F even, odd;
                Lanes::load_apart(key + j * size + i, even, odd);
                UNROLL for (int r = 0; r < Q; r++) {
                    sums[r * N + j] = Lanes::fma(even, Lanes::load(q + r * size + i), sums[r * N + j]);
                    sums[r * N + j] = Lanes::fma(odd, Lanes::load(q + r * size + i + W), sums[r * N + j]);
                }
            }
    }
    for (; i < size; i += W) {
        F of[Q];
        UNROLL for (int r = 0; r < Q; r++) of[r] = part(q + r * size + i, size - i);
        UNROLL for (int j = 0; j < N; j++) {
            const F k = part(key + j * size + i, size - i);
            UNROLL for (int r = 0; r < Q; r++) sums[r * N + j] = Lanes::fma(k, of[r], sums[r * N + j]);
        }
    }
    float total[Q * N];
    totals(sums, total);
    UNROLL for (int j = 0; j < N; j++) {
        const float scale = task.key_scale ? task.key_scale[task.first + p + j] : 1.0f;
        UNROLL for (int r = 0; r < Q; r++) scores[r * count + p + j] = total[r * N + j] * scale;
    }
}

template <class E, bool Apart, int Q> void scores_each(const AttentionTask &task, const float *q, float *scores) {
    constexpr int N = 4;
    const int64_t count = task.last - task.first;
    int64_t p = 0;
    for (; p + N <= count; p += N) scores_at<E, Apart, Q, N>(task, q, p, scores);
    for (; p < count; p++) scores_at<E, Apart, Q, 1>(task, q, p, scores);
}

template <class E, int Q> void scores_of(const AttentionTask &task, int64_t first_query, float *scores) {
    const float *q = task.q + first_query * task.size;
    if constexpr (kApart<E>)
        if (task.size <= kLongestQuery) {
            float apart[Q * kLongestQuery];
            for (int r = 0; r < Q; r++) take_apart(q + r * task.size, task.size, apart + r * task.size);
            return scores_each<E, true, Q>(task, apart, scores);
        }
    scores_each<E, false, Q>(task, q, scores);
}

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
    read_ahead((const int8_t *)task.keys + (task.first + p) * size, N * size);
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

// Column i of a value, kSlice vectors from there; whole where they all lie within it.
template <class E, bool Whole> void slice(const E *value, int64_t left, F (&v)[kSlice]) {
    if constexpr (Whole && kApart<E>) {
        UNROLL for (int u = 0; u < kSlice; u += 2) Lanes::load_apart(value + u * W, v[u], v[u + 1]);
    } else {
        UNROLL for (int u = 0; u < kSlice; u++)
            v[u] = Whole ? Lanes::load(value + u * W) : left > u * W ? part(value + u * W, left - u * W) : Lanes::set(0.0f);
    }
}

template <class E, bool Whole, int Q>
void values_from(const AttentionTask &task, const float *weights, int64_t i, float *out) {
    const int64_t size = task.size, count = task.last - task.first;
    F sums[Q][kSlice];
    UNROLL for (int r = 0; r < Q; r++)
        UNROLL for (int u = 0; u < kSlice; u++) sums[r][u] = Lanes::set(0.0f);
    for (int64_t p = 0; p < count; p++) {
        const E *value = (const E *)task.values + (task.first + p) * size + i;
        read_ahead(value, Whole ? kSlice * W : size - i);
        F v[kSlice];
        slice<E, Whole>(value, size - i, v);
        UNROLL for (int r = 0; r < Q; r++) {
            const F weight = Lanes::set(weights[r * count + p]);
            UNROLL for (int u = 0; u < kSlice; u++) sums[r][u] = Lanes::fma(weight, v[u], sums[r][u]);
        }
    }
    UNROLL for (int r = 0; r < Q; r++) {
        float *to = out + r * task.out_stride + i;
        UNROLL for (int u = 0; u < kSlice; u++)
            if (i + u * W < size) put(to + u * W, sums[r][u], size - i - u * W);
        if (Whole && kApart<E>) put_together(to, kSlice * W);
    }
}

template <class E, int Q> void values_of(const AttentionTask &task, const float *weights, float *out) {
    int64_t i = 0;
    for (; i + kSlice * W <= task.size; i += kSlice * W) values_from<E, true, Q>(task, weights, i, out);
    for (; i < task.size; i += kSlice * W) values_from<E, false, Q>(task, weights, i, out);
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
