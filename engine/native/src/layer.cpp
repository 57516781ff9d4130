// One weight at a time: its product with a few rows, and its 4-bit codes unpacked for many. And the choice of a token.
#include <cstring>
#include <new>

#include "common.h"

namespace dyno {
namespace {

class Linear final : public Program {
public:
    Linear(const Kernels &kernels, const dyno_matrix &weight, const float *x, int64_t count, float *y, int threads)
        : kernels_(kernels), weight_(weight), x_(x), y_(y), count_(count), cut_(cut(weight.rows, weight.stride, threads)),
          scratch_(size_t(threads)) {
        for (Scratch &s : scratch_) s.grow(weight.columns, 0);
    }
    int phases() const override { return 1; }
    int chunks(int) const override { return cut_.count(); }
    void run(int, int chunk, int thread) override {
        Scratch &s = scratch_[size_t(thread)];
        const Activations a = s.activations(weight_.columns);
        if (s.prepared < 0) {
            for (int64_t t = 0; t < count_; t++)
                std::memcpy(a.x + t * a.padded, x_ + t * weight_.columns, size_t(weight_.columns) * 4);
            kernels_.prepare(a, count_, weight_.columns, weight_.kind, weight_.group);
            s.prepared = 0;
        }
        kernels_.product(weight_, cut_.first(chunk), cut_.last(chunk), a, count_, y_, weight_.rows, false);
    }
    void ended(int) override {}

private:
    const Kernels &kernels_;
    const dyno_matrix &weight_;
    const float *x_;
    float *y_;
    int64_t count_;
    Cut cut_;
    std::vector<Scratch> scratch_;
};

class Unpacking final : public Program {
public:
    Unpacking(const Kernels &kernels, const dyno_matrix &weight, int64_t first, int64_t last, uint16_t *out, int threads)
        : kernels_(kernels), weight_(weight), first_(first), out_(out), cut_(cut(last - first, weight.stride, threads)) {}
    int phases() const override { return 1; }
    int chunks(int) const override { return cut_.count(); }
    void run(int, int chunk, int) override {
        kernels_.unpack(weight_, first_ + cut_.first(chunk), first_ + cut_.last(chunk),
                        out_ + cut_.first(chunk) * weight_.columns);
    }
    void ended(int) override {}

private:
    const Kernels &kernels_;
    const dyno_matrix &weight_;
    int64_t first_;
    uint16_t *out_;
    Cut cut_;
};

}  // namespace
}  // namespace dyno

using namespace dyno;

int dyno_abi(void) { return DYNO_ABI; }

int dyno_can_run(int isa) { return kernels_of(isa) != nullptr; }

const char *dyno_isa_name(int isa) {
    const Kernels *k = kernels_of(isa);
    return k ? k->name : "";
}

int dyno_linear(const dyno_matrix *weight, const float *x, int64_t count, float *y, int threads, int isa) {
    const Kernels *k = kernels_of(isa);
    if (!k || count < 1 || count > DYNO_MAX_ROWS || !fits(*weight, weight->rows, weight->columns)) return 1;
    try {
        Linear program(*k, *weight, x, count, y, std::min(std::max(threads, 1), kMaxThreads));
        run_together(program, std::min(std::max(threads, 1), kMaxThreads));
    } catch (const std::bad_alloc &) {
        return 2;
    }
    return 0;
}

int dyno_unpack(const dyno_matrix *weight, int64_t first, int64_t last, uint16_t *out, int threads) {
    const Kernels *k = kernels_of(DYNO_AUTO);
    if (weight->kind != DYNO_I4 || !fits(*weight, weight->rows, weight->columns) || first < 0 || first >= last
        || last > weight->rows)
        return 1;
    Unpacking program(*k, *weight, first, last, out, std::min(std::max(threads, 1), kMaxThreads));
    run_together(program, std::min(std::max(threads, 1), kMaxThreads));
    return 0;
}

int dyno_likeliest(const float *logits, int64_t size, int64_t count, int64_t *ids, float *values, double *log_sum,
                   int isa) {
    const Kernels *k = kernels_of(isa);
    if (!k || count < 1 || count > size) return 1;
    k->likeliest(logits, size, count, ids, values, log_sum);
    return 0;
}
