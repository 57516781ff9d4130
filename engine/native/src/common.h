// What a step and a single product share: the choice of code, a thread's memory, and how rows are cut into chunks.
#pragma once
#include <algorithm>
#include <chrono>
#include <vector>

#include "dyno.h"
#include "kernels.h"
#include "team.h"

namespace dyno {

constexpr int64_t kPadding = 128;     // columns of activations come in multiples of this
constexpr int64_t kChunkBytes = 256 << 10;  // of weights, wanted in one chunk of rows
constexpr int64_t kPanel = 16;        // rows of an I4 weight that are read together
constexpr int64_t kChunksEach = 4;    // at least as many chunks for each thread, where there are rows enough

inline int64_t filled(int64_t columns) { return (columns + kPadding - 1) / kPadding * kPadding; }

inline int64_t bytes_of(int64_t kind) { return kind == DYNO_F32 ? 4 : kind == DYNO_BF16 || kind == DYNO_F16 ? 2 : 1; }

inline const Kernels *kernels_of(int isa) {
    switch (isa) {
        case DYNO_PORTABLE: return portable();
        case DYNO_AVX2: return avx2();
        case DYNO_AVX512: return avx512();
        case DYNO_NEON: return neon();
        default: break;
    }
    for (const Kernels *k : {avx512(), avx2(), neon()})
        if (k) return k;
    return portable();
}

// One thread's own memory.
struct Scratch {
    std::vector<float> x, scale, sums, scores;
    std::vector<int8_t> codes;
    std::vector<int32_t> offset;
    int prepared = -1;  // the phase that the activations are of
    bool timed = false;
    int64_t small_ns = 0;  // in norms, rotations and activations, where timed

    void grow(int64_t columns, int64_t stretch) {
        const size_t padded = size_t(filled(columns)) * DYNO_MAX_ROWS;
        x.resize(std::max(x.size(), padded));
        codes.resize(std::max(codes.size(), padded));
        scale.resize(std::max(scale.size(), padded / 32));
        offset.resize(std::max(offset.size(), padded / 32));
        sums.resize(std::max(sums.size(), padded / 32));
        scores.resize(std::max(scores.size(), size_t(4 * stretch)));
    }

    Activations activations(int64_t columns) {
        return {x.data(), codes.data(), scale.data(), offset.data(), sums.data(), filled(columns)};
    }
};

// Counts the time until it ends as that of small operators.
class SmallTime {
public:
    explicit SmallTime(Scratch &s) : s_(s) {
        if (s_.timed) since_ = std::chrono::steady_clock::now();
    }
    ~SmallTime() {
        if (s_.timed)
            s_.small_ns += std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - since_)
                               .count();
    }

private:
    Scratch &s_;
    std::chrono::steady_clock::time_point since_;
};

// Rows of a product, cut into chunks.
struct Cut {
    int64_t rows, chunk;
    int count() const { return int((rows + chunk - 1) / chunk); }
    int64_t first(int i) const { return i * chunk; }
    int64_t last(int i) const { return std::min(rows, (i + 1) * chunk); }
};

inline Cut cut(int64_t rows, int64_t row_bytes, int threads) {
    if (threads <= 1) return {rows, rows};
    int64_t chunk = std::max<int64_t>(1, kChunkBytes / std::max<int64_t>(1, row_bytes));
    chunk = std::min(chunk, std::max<int64_t>(1, rows / (kChunksEach * threads)));
    chunk = std::max(chunk, (rows + kMaxChunks - 1) / kMaxChunks);
    return {rows, (chunk + kPanel - 1) / kPanel * kPanel};
}

// Whether a weight is what a product of (columns) to (rows) can read.
inline bool fits(const dyno_matrix &w, int64_t rows, int64_t columns) {
    if (!w.data || rows < 1 || columns < 1 || w.rows != rows || w.columns != columns || w.kind < DYNO_F32
        || w.kind > DYNO_I4)
        return false;
    if (w.kind == DYNO_I4)
        return w.scale.data && (w.group == 32 || w.group == 64 || w.group == 128)
               && w.stride == (columns + w.group - 1) / w.group * w.group / 2;
    if (w.stride < columns * bytes_of(w.kind)) return false;
    return (w.kind != DYNO_I8 && w.kind != DYNO_I8_DYNAMIC)
           || (w.scale.data && (w.kind == DYNO_I8 || columns <= DYNO_LONGEST_I8));
}

}  // namespace dyno
