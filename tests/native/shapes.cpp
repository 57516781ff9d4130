// A thousand random models and positions through every instruction set of this machine, in buffers that end where the
// numbers end, for the sanitizers to watch. Instruction sets must agree. Prints how many steps it took.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "dyno.h"

namespace {

std::mt19937 chance(7);

int64_t between(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(chance); }

struct Buffers {  // each allocation has exactly the bytes asked for
    std::vector<std::unique_ptr<char[]>> all;
    char *bytes(size_t count) {
        all.emplace_back(new char[count]);
        return all.back().get();
    }
    // Small numbers as F32, BF16 or F16.
    dyno_vector numbers(int64_t count, int64_t kind, float size = 0.1f) {
        char *data = bytes(size_t(count) * (kind == DYNO_F32 ? 4 : 2));
        for (int64_t i = 0; i < count; i++) {
            const float v = size * std::uniform_real_distribution<float>(-1, 1)(chance);
            uint32_t bits;
            std::memcpy(&bits, &v, 4);
            if (kind == DYNO_F32) std::memcpy(data + 4 * i, &v, 4);
            const uint16_t half = kind == DYNO_BF16 ? uint16_t(bits >> 16) : uint16_t(between(0, 0x2FFF));
            if (kind != DYNO_F32) std::memcpy(data + 2 * i, &half, 2);
        }
        return {data, kind};
    }
    dyno_matrix weight(int64_t rows, int64_t columns, int64_t kind) {
        dyno_matrix w{};
        w.rows = rows, w.columns = columns, w.kind = kind;
        if (between(0, 1)) w.bias = numbers(rows, between(DYNO_F32, DYNO_F16));
        if (kind <= DYNO_F16) {
            w.data = numbers(rows * columns, kind).data;
            w.stride = columns * (kind == DYNO_F32 ? 4 : 2);
        } else if (kind == DYNO_I4) {
            w.group = 32 << between(0, 2);
            const int64_t groups = (columns + w.group - 1) / w.group;
            w.stride = groups * w.group / 2;
            const int64_t filled = (rows + 15) / 16 * 16;
            w.data = codes(size_t(filled * w.stride), -128);
            w.scale = numbers(2 * filled * groups, DYNO_BF16, 0.02f);
        } else {
            w.stride = kind == DYNO_I8 ? columns + between(0, 3) : columns;
            w.data = codes(size_t((rows - 1) * w.stride + columns), -127);
            w.scale = numbers(rows, between(DYNO_F32, DYNO_BF16), 0.002f);
        }
        return w;
    }
    const void *codes(size_t count, int64_t least) {
        char *data = bytes(count);
        for (size_t i = 0; i < count; i++) data[i] = char(between(least, 127));
        return data;
    }
};

void fail(const char *what) {
    std::printf("%s\n", what);
    std::exit(1);
}

// A single product, and the unpacking of its codes.
void one_layer(Buffers &b, const dyno_matrix &w, int64_t rows, int isa) {
    const float *x = (const float *)b.numbers(rows * w.columns, DYNO_F32, 1.0f).data;
    float *y = (float *)b.bytes(size_t(rows * w.rows) * 4);
    if (dyno_linear(&w, x, rows, y, int(between(1, 3)), isa)) fail("a product was refused");
    for (int64_t i = 0; i < rows * w.rows; i++)
        if (!std::isfinite(y[i])) fail("a product is no number");
    dyno_matrix none = w;
    none.rows = 0;
    if (!dyno_linear(&none, x, rows, y, 1, isa)) fail("a weight without rows was taken");
    if (w.kind != DYNO_I4) return;
    const int64_t first = between(0, w.rows - 1), last = between(first + 1, w.rows);
    uint16_t *out = (uint16_t *)b.bytes(size_t((last - first) * w.columns) * 2);
    if (dyno_unpack(&w, first, last, out, int(between(1, 3)))) fail("codes were not unpacked");
}

// The tokens chosen from random logits, some of them equal.
void choose_a_token(int isa) {
    Buffers b;
    const int64_t size = between(1, 700), count = between(1, size < 256 ? size : 256);
    float *logits = (float *)b.bytes(size_t(size) * 4), *values = (float *)b.bytes(size_t(count) * 4);
    for (int64_t i = 0; i < size; i++) logits[i] = float(between(-300, 300)) / 16;
    int64_t *ids = (int64_t *)b.bytes(size_t(count) * 8);
    double sum = 0;
    if (dyno_likeliest(logits, size, count, ids, values, between(0, 1) ? &sum : nullptr, isa)) fail("no token was chosen");
    if (!std::isfinite(sum)) fail("a sum is no number");
    for (int64_t i = 0; i < count; i++)
        if (logits[ids[i]] != values[i] || (i && values[i] > values[i - 1])) fail("the wrong tokens were chosen");
    if (!dyno_likeliest(logits, size, size + 1, ids, values, nullptr, isa)) fail("too many tokens were promised");
}

int try_a_model(bool large) {
    Buffers b;
    dyno_model m{};
    m.hidden = between(1, large ? 300 : 70), m.layers = between(1, 2), m.kv_heads = between(1, 3);
    m.heads = m.kv_heads * between(1, 5), m.neurons = between(1, large ? 500 : 90), m.vocabulary = between(1, 200);
    const bool rotary = between(0, 1);
    m.head_size = rotary ? 2 * between(1, large ? 40 : 9) : between(1, large ? 80 : 17);
    m.context = between(1, large ? 1400 : 40), m.turned = rotary ? 2 * between(1, m.head_size / 2) : 0;
    m.parallel = between(0, 2) == 0, m.embed_scale = between(0, 1) ? 1.0 : 3.0, m.score_scale = 1 / std::sqrt(double(m.head_size));
    m.score_cap = between(0, 1) ? 0.0 : 2.0, m.logit_cap = between(0, 1) ? 0.0 : 3.0;
    const bool posts = !m.parallel && between(0, 1);
    m.gated = between(0, 1), m.activation = between(DYNO_SILU, DYNO_RELU), m.layer_norm = between(0, 1), m.norm_eps = 1e-5;
    m.embedding = {nullptr, {}, between(DYNO_F32, DYNO_I8), between(DYNO_F32, DYNO_F16)};
    if (m.embedding.kind == DYNO_I8) {
        m.embedding.data = b.codes(size_t(m.vocabulary * m.hidden), -127);
        m.embedding.scale = b.numbers(m.vocabulary, DYNO_F32, 0.002f);
    } else {
        m.embedding.data = b.numbers(m.vocabulary * m.hidden, m.embedding.kind).data;
    }
    if (!rotary) m.positions = {b.numbers(m.context * m.hidden, DYNO_F32).data, {}, DYNO_F32, DYNO_F32};
    const auto norms = [&] { return b.numbers(m.hidden, between(DYNO_F32, DYNO_F16), 1.0f); };
    const int64_t kind = between(DYNO_F32, DYNO_I4), wide = m.heads * m.head_size;
    std::vector<dyno_block> blocks(size_t(m.layers), dyno_block{});
    for (dyno_block &block : blocks) {
        block.qkv = b.weight(wide + 2 * m.kv_heads * m.head_size, m.hidden, kind);
        block.out = b.weight(m.hidden, wide, kind), block.down = b.weight(m.hidden, m.neurons, kind);
        block.up = b.weight(m.neurons * (m.gated ? 2 : 1), m.hidden, kind);
        block.norm1 = norms(), block.norm2 = norms();
        if (posts) block.post1 = norms(), block.post2 = norms();
        block.window = between(0, 2) ? 0 : between(1, m.context), block.turn = rotary ? between(-1, 1) : -1;
        if (m.layer_norm) block.norm1_bias = norms(), block.norm2_bias = norms();
        if (between(0, 1)) block.q_norm = b.numbers(m.head_size, DYNO_F32), block.k_norm = b.numbers(m.head_size, DYNO_F32);
    }
    m.norm = norms(), m.head = b.weight(m.vocabulary, m.hidden, between(DYNO_F32, DYNO_I4)), m.blocks = blocks.data();

    const int64_t capacity = between(1, m.context), cached = between(DYNO_F32, DYNO_I8);
    const int64_t numbers = 2 * m.layers * m.kv_heads * capacity * m.head_size;
    const int64_t rows = between(1, std::min<int64_t>(capacity, DYNO_MAX_ROWS)), at = between(0, capacity - rows);
    const size_t size = size_t(numbers) * (cached == DYNO_F32 ? 4 : cached == DYNO_I8 ? 1 : 2);
    const void *before = cached == DYNO_I8 ? b.codes(size, -127) : b.numbers(numbers, cached).data;
    const void *scales = b.numbers(numbers / m.head_size, DYNO_F32, 0.01f).data;
    std::vector<int64_t> ids(static_cast<size_t>(rows));
    for (int64_t &id : ids) id = between(0, m.vocabulary - 1);
    const auto angles = [&] { return (const float *)b.numbers(rows * (m.turned / 2), DYNO_F32, 1.0f).data; };
    const dyno_turn turns[2] = {{angles(), angles()}, {angles(), angles()}};

    std::vector<float> first;
    int steps = 0;
    for (int isa = DYNO_PORTABLE; isa <= DYNO_NEON; isa++) {
        if (!dyno_can_run(isa)) continue;
        dyno_session *session = dyno_open(&m, isa);
        if (!session) fail("a model was refused");
        dyno_cache cache{b.bytes(size), cached == DYNO_I8 ? (float *)b.bytes(size_t(numbers / m.head_size) * 4) : nullptr,
                         cached, capacity};
        std::memcpy(cache.data, before, size);
        if (cache.scale) std::memcpy(cache.scale, scales, size_t(numbers / m.head_size) * 4);
        float *logits = (float *)b.bytes(size_t(rows * m.vocabulary) * 4);
        const int failed = dyno_step(session, &cache, ids.data(), rows, at, turns, logits, int(between(1, 3)), nullptr);
        if (failed) fail("a step was refused");
        int64_t beyond[1] = {m.vocabulary};
        if (!dyno_step(session, &cache, beyond, 1, 0, turns, logits, 1, nullptr)) fail("an id beyond was taken");
        if (!dyno_step(session, &cache, ids.data(), 1, capacity, turns, logits, 1, nullptr)) fail("a full cache was taken");
        dyno_close(session);
        double apart = 0, whole = 1e-12;
        for (int64_t i = 0; i < rows * m.vocabulary; i++) {
            if (!std::isfinite(logits[i])) fail("a logit is no number");
            if (isa != DYNO_PORTABLE) apart += std::pow(double(logits[i]) - first[size_t(i)], 2);
            whole += double(logits[i]) * logits[i];
        }
        if (isa == DYNO_PORTABLE) first.assign(logits, logits + rows * m.vocabulary);
        // What is rounded to few bits may fall to the other side of a tie, and the next layers carry that on.
        const bool codes = kind >= DYNO_I8_DYNAMIC || m.head.kind >= DYNO_I8_DYNAMIC || cached == DYNO_I8;
        if (std::sqrt(apart / whole) > (codes ? 0.2 : cached != DYNO_F32 ? 0.01 : 1e-4)) fail("instruction sets differ");
        one_layer(b, blocks[0].up, rows, isa);
        choose_a_token(isa);
        steps++;
    }
    return steps;
}

}  // namespace

int main(int, char **arguments) {
    const int models = std::atoi(arguments[1]);
    int steps = 0;
    for (int i = 0; i < models; i++) steps += try_a_model(i % 10 == 0);
    std::printf("%d steps\n", steps);
    return 0;
}
