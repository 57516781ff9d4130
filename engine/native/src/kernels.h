// What every instruction set offers the step: a table of functions. This header is read by files that are compiled for
// different instruction sets, so it holds no inline code that the linker could merge across them.
#pragma once
#include "dyno.h"

namespace dyno {

// Activations as the products read them, T rows each. Every row is filled up with zeros to `padded` columns.
struct Activations {
    float *x;         // (T, padded)
    int8_t *codes;    // (T, padded), of I8_DYNAMIC and I4
    float *scale;     // I8_DYNAMIC: (T). I4: (T, padded / 32), of blocks of 32 columns
    int32_t *offset;  // I8_DYNAMIC: (T), the sum of codes. I4: (T, padded / 32), -8 times it
    float *sums;      // I4: (T, padded / 32), the sum of scaled codes by groups of the weight
    int64_t padded;
};

struct Head {  // what makes a query or a key of a product's rows
    dyno_vector norm;
    const float *cosine, *sine;  // (turned / 2) of this position, or null
    int64_t turned;
    float eps, factor;
};

struct AttentionTask {  // one key/value head, positions first to last, queries of one token
    const void *keys, *values;  // (C, d) of this head
    const float *key_scale, *value_scale;
    int64_t kind, size, first, last, queries;
    const float *q;        // (queries, d), scaled
    float cap;             // of scores, 0 for none
    float *scores;         // (4, last - first) scratch
    float *out;            // (queries, d + 2): sum of weighted values, maximum, sum of weights
    int64_t out_stride;    // from one query's result to the next
};

struct Kernels {
    int isa;
    const char *name;
    // Fill x's padding and derive what a weight of this kind and group wants. columns <= padded.
    void (*prepare)(const Activations &a, int64_t rows, int64_t columns, int64_t kind, int64_t group);
    // y[t * stride + n] (+)= for rows n of the weight from first to last.
    void (*product)(const dyno_matrix &w, int64_t first, int64_t last, const Activations &a, int64_t rows, float *y,
                    int64_t stride, bool add);
    void (*norm)(const float *x, int64_t size, const dyno_vector &weight, const dyno_vector &bias, float eps,
                 bool layer_norm, float *out);
    void (*head)(const Head &head, float *v, int64_t size);  // in place: norm, rotation, factor
    void (*remember)(const float *v, int64_t size, int64_t kind, void *row, float *scale);  // into the cache
    void (*attend)(const AttentionTask &task);
    void (*combine)(const float *parts, int64_t count, int64_t size, float *out);  // (count, d + 2) to (d)
    void (*activate)(float *gate, const float *up, int64_t size, int64_t activation);  // up null: not gated
    void (*lookup)(const dyno_table &table, int64_t row, int64_t size, bool add, float *out);
    void (*cap)(float *x, int64_t size, float most);  // most tanh(x / most), in place
    void (*unpack)(const dyno_matrix &w, int64_t first, int64_t last, uint16_t *out);
    void (*likeliest)(const float *x, int64_t size, int64_t count, int64_t *ids, float *values, double *log_sum);
};

const Kernels *portable();
const Kernels *avx2();    // null where this build or this machine lacks it, as below
const Kernels *avx512();
const Kernels *neon();

}  // namespace dyno
