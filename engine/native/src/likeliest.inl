// What choosing a token wants of its logits: the likeliest of them, and log(sum of e^x).

constexpr int kMany = 4 * W;     // numbers that one comparison passes over
constexpr int64_t kRun = 4096;   // numbers that are summed in fp32 before the sum goes on in double

// log of the sum of e^x over all of x. most: the largest of them.
double log_sum(const float *x, int64_t size, float most) {
    const F top = Lanes::set(most);
    double total = 0.0;
    for (int64_t first = 0; first < size; first += kRun) {
        const int64_t last = first + kRun < size ? first + kRun : size;
        F sums[4] = {Lanes::set(0.0f), Lanes::set(0.0f), Lanes::set(0.0f), Lanes::set(0.0f)};
        int64_t i = first;
        for (; i + kMany <= last; i += kMany)
            UNROLL for (int j = 0; j < 4; j++)
                sums[j] = Lanes::add(sums[j], exponential(Lanes::sub(Lanes::load(x + i + j * W), top)));
        float rest[kMany];
        for (int j = 0; j < kMany; j++) rest[j] = i + j < last ? x[i + j] : -INFINITY;
        if (i < last)
            UNROLL for (int j = 0; j < 4; j++)
                sums[j] = Lanes::add(sums[j], exponential(Lanes::sub(Lanes::load(rest + j * W), top)));
        total += double(Lanes::sum(Lanes::add(Lanes::add(sums[0], sums[1]), Lanes::add(sums[2], sums[3]))));
    }
    return double(most) + log(total);
}

// The `count` largest of x, the largest first, of equal ones the first. Few of the numbers are ever among the largest so
// far, so nearly all of them are passed over many at a time.
void likeliest(const float *x, int64_t size, int64_t count, int64_t *ids, float *values, double *sum) {
    int64_t kept = 0;
    const auto offer = [&](int64_t i) {
        const float v = x[i];
        if (kept == count && !(v > values[count - 1])) return;
        int64_t at = kept < count ? kept++ : count - 1;
        for (; at > 0 && values[at - 1] < v; at--) values[at] = values[at - 1], ids[at] = ids[at - 1];
        values[at] = v, ids[at] = i;
    };
    int64_t i = 0;
    for (; i < count; i++) offer(i);
    for (; i + kMany <= size; i += kMany) {
        F parts[4];
        UNROLL for (int j = 0; j < 4; j++) parts[j] = Lanes::load(x + i + j * W);
        if (!(Lanes::maximum(Lanes::max(Lanes::max(parts[0], parts[1]), Lanes::max(parts[2], parts[3]))) > values[count - 1]))
            continue;
        for (int j = 0; j < 4; j++)
            if (Lanes::maximum(parts[j]) > values[count - 1])
                for (int k = 0; k < W; k++) offer(i + j * W + k);
    }
    for (; i < size; i++) offer(i);
    if (sum) *sum = log_sum(x, size, values[0]);
}
