// The C face of the token step: plain structures, no PyTorch, no Python. The caller keeps every pointer alive.
//
// Letters as in engine/models/gpt.py: T new tokens, D hidden size, H query heads, K key/value heads, d head size,
// F feed-forward neurons, V vocabulary, C capacity of the cache.
#pragma once
#include <stdint.h>

#if defined(_WIN32)
#define DYNO_API __declspec(dllexport)
#else
#define DYNO_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define DYNO_ABI 5
#define DYNO_MAX_ROWS 8
#define DYNO_LONGEST_I8 65000  // columns up to which a sum of 8-bit products stays below 2^31

// How numbers are stored. I8: codes times a scale a row, activations in fp32. I8_DYNAMIC: the same codes, activations
// rounded to 8 bits for each token. I4: codes by groups of columns, (code - 8) scale + zero, activations rounded to
// 8 bits by blocks of 32.
enum dyno_kind { DYNO_F32, DYNO_BF16, DYNO_F16, DYNO_I8, DYNO_I8_DYNAMIC, DYNO_I4 };
enum dyno_activation { DYNO_SILU, DYNO_GELU, DYNO_GELU_TANH, DYNO_RELU };
enum dyno_isa { DYNO_AUTO, DYNO_PORTABLE, DYNO_AVX2, DYNO_AVX512, DYNO_NEON };
enum dyno_part { DYNO_PRODUCTS, DYNO_ATTENTION, DYNO_SMALL, DYNO_PARTS };  // SMALL: norms, rotations, activations

// Numbers in a row; data null where there are none. kind: F32, BF16 or F16.
typedef struct {
    const void *data;
    int64_t kind;
} dyno_vector;

// A weight (rows, columns), row after row, `stride` bytes apart.
//
// I4: `stride` is half of the columns filled up to whole groups, and rows lie in panels of 16, filled up with any row: a
// product then needs no sum across lanes. A panel is a run of blocks of 32 columns; a block is 16 bytes a row, in four
// parts of (16 rows, 4 bytes): byte i of part j holds column 4 j + i below and column 16 + 4 j + i above. scale holds
// scales and zeros together, BF16, (panels, groups, 2, 16).
typedef struct {
    const void *data;
    dyno_vector scale, bias;
    int64_t rows, columns, stride, kind, group;
} dyno_matrix;

// post1, post2: norms of what the layer adds, data null where it has none. window: tokens that a query may look back on,
// itself included; 0: all. turn: which cosines and sines of a step its heads are turned by, -1 for none.
typedef struct {
    dyno_matrix qkv, out, up, down;
    dyno_vector norm1, norm1_bias, norm2, norm2_bias, q_norm, k_norm, post1, post2;
    int64_t window, turn;
} dyno_block;

// A table whose rows are looked up. scale: of an I8 table, F32, one a row. round_to: BF16 or F16 where what is read is
// rounded to that, F32 otherwise.
typedef struct {
    const void *data;
    dyno_vector scale;
    int64_t kind, round_to;
} dyno_table;

typedef struct {
    int64_t hidden, layers, heads, kv_heads, head_size, neurons, vocabulary, context;
    int64_t gated, activation, layer_norm;
    int64_t turned;    // channels of a head that rotary positions turn, the first ones
    int64_t parallel;  // attention and feed-forward read the same x
    double norm_eps;
    double embed_scale, score_scale;  // of embedding rows; of products of queries and keys
    double score_cap, logit_cap;      // cap tanh(x / cap) of scores and logits; 0: none
    dyno_table embedding, positions;  // positions.data null: rotary
    dyno_vector norm, norm_bias;
    dyno_matrix head;
    const dyno_block *blocks;
} dyno_model;

// Keys and values, (2 layers, kv_heads, capacity, head_size), the keys of a layer before its values. scale: of I8, F32,
// (2 layers, kv_heads, capacity).
typedef struct {
    void *data;
    float *scale;
    int64_t kind, capacity;
} dyno_cache;

// Cosines and sines of a step's positions, (rows, turned / 2) fp32; null where no layer turns by them.
typedef struct {
    const float *cosine, *sine;
} dyno_turn;

typedef struct dyno_session dyno_session;

DYNO_API int dyno_abi(void);
// 1 where this machine can run the instruction set and this library has code for it.
DYNO_API int dyno_can_run(int isa);
DYNO_API const char *dyno_isa_name(int isa);

// Room to run a model, whose structures are copied; null when memory is short or the instruction set cannot run. One
// caller at a time: a session holds the activations of the step that runs.
DYNO_API dyno_session *dyno_open(const dyno_model *model, int isa);
DYNO_API void dyno_close(dyno_session *session);

// One step: `rows` tokens (1 to DYNO_MAX_ROWS) after the `at` tokens that the cache holds. Writes their keys and values
// and fp32 logits (rows, V). A row's numbers do not depend on the rows beside it, nor on the number of threads.
// turns: two of them, for layers of turn 0 and 1. part_ns: null, or DYNO_PARTS
// counters that grow by nanoseconds. Returns 0; 1 for arguments out of range; 2 when memory is short.
DYNO_API int dyno_step(dyno_session *session, const dyno_cache *cache, const int64_t *ids, int64_t rows, int64_t at,
              const dyno_turn *turns, float *logits, int threads, int64_t *part_ns);

// y (count, rows) = x (count, columns) W^T + bias in fp32, for count from 1 to DYNO_MAX_ROWS. Same returns.
DYNO_API int dyno_linear(const dyno_matrix *weight, const float *x, int64_t count, float *y, int threads, int isa);

// Rows first to last of an I4 weight as bf16, (last - first, columns).
DYNO_API int dyno_unpack(const dyno_matrix *weight, int64_t first, int64_t last, uint16_t *out, int threads);

// The `count` largest of `size` logits, the largest first, of equal ones the first: ids and values (count), and log_sum
// (or null), ln of the sum of e^logit over all of them, NaN where a logit is. Returns 0; 1 for count out of 1 to size.
DYNO_API int dyno_likeliest(const float *logits, int64_t size, int64_t count, int64_t *ids, float *values,
                            double *log_sum, int isa);

#ifdef __cplusplus
}
#endif
