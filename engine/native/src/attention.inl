// Attention of a few queries over a stretch of the cache. A part of kernels.inl, inside its namespace.

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
