// One token step: the decoder of engine/models/gpt.py as a program of five phases a layer.
//
//   attention input   norm, product by heads; each head is rotated at once and keys and values go into the cache
//   attention         one key/value head and one stretch of positions at a time
//   attention output  parts of the softmax put together, product, added to x
//   feed-forward      norm, product, activation
//   feed-forward out  product, added to x
//
// Where attention and feed-forward stand side by side, the third and fourth change places. Where what is added is normed
// first, it waits in added_, and the phase after norms and adds it.
//
// Every thread computes the norms and rounds the activations for itself, which costs less than waiting for another.
// x, q and everything between stay in fp32.
#include <cmath>
#include <cstring>
#include <new>

#include "common.h"

namespace dyno {
namespace {

enum PhaseOfLayer { kInput, kAttention, kOutput, kUp, kDown, kPhasesOfLayer };

constexpr int64_t kStretch = 512;     // positions that one attention task covers, at least
constexpr int64_t kMostStretches = 16;

}  // namespace

// The model with room to run it, and the program of one step.
class Step : public Program {
public:
    Step(const dyno_model &model, const Kernels &kernels)
        : m_(model), kernels_(kernels), blocks_(model.blocks, model.blocks + model.layers),
          widest_(std::max({model.hidden, model.heads * model.head_size, model.neurons})) {
        const int64_t rows = DYNO_MAX_ROWS;
        x_.resize(size_t(rows * m_.hidden));
        q_.resize(size_t(rows * m_.heads * m_.head_size));
        h_.resize(size_t(rows * m_.neurons * (m_.gated ? 2 : 1)));
        heads_.resize(size_t(rows * (m_.heads + 2 * m_.kv_heads) * m_.head_size));
        if (blocks_[0].post1.data) added_.resize(x_.size()), other_.resize(x_.size());
    }

    int take(const dyno_cache &cache, const int64_t *ids, int64_t rows, int64_t at, const dyno_turn *turns, float *logits,
             int threads, int64_t *part_ns) {
        if (rows < 1 || rows > DYNO_MAX_ROWS || at < 0 || at + rows > cache.capacity || at + rows > m_.context) return 1;
        if (cache.kind < DYNO_F32 || cache.kind > DYNO_I8 || (cache.kind == DYNO_I8 && !cache.scale)) return 1;
        for (const dyno_block &b : blocks_)
            if (b.turn >= 0 && !(turns[b.turn].cosine && turns[b.turn].sine)) return 1;
        for (int64_t t = 0; t < rows; t++)
            if (ids[t] < 0 || ids[t] >= m_.vocabulary) return 1;
        threads_ = std::min(std::max(threads, 1), kMaxThreads);
        c_ = cache, rows_ = rows, at_ = at, turns_ = turns, logits_ = logits, part_ns_ = part_ns;
        // How positions are cut depends on the cache alone, so that sums are taken in one order whatever the rows.
        stretch_ = std::max(kStretch, (cache.capacity / kMostStretches + kStretch) / kStretch * kStretch);
        if (cache.capacity <= kStretch * kMostStretches) stretch_ = kStretch;
        int64_t most = 0;
        for (const dyno_block &b : blocks_) most = std::max(most, stretches(b));
        try {
            const size_t parts = size_t(rows * m_.heads * most * (m_.head_size + 2));
            if (parts_.size() < parts) parts_.resize(parts);
            if (int(scratch_.size()) < threads_) scratch_.resize(size_t(threads_));
            for (Scratch &s : scratch_) s.grow(widest_, stretch_), s.prepared = -1;
        } catch (const std::bad_alloc &) {
            return 2;
        }
        for (int64_t t = 0; t < rows; t++) {
            float *x = x_.data() + t * m_.hidden;
            kernels_.lookup(m_.embedding, ids[t], m_.hidden, false, x);
            if (m_.embed_scale != 1.0)
                for (int64_t i = 0; i < m_.hidden; i++) x[i] *= float(m_.embed_scale);
            if (m_.positions.data) kernels_.lookup(m_.positions, at + t, m_.hidden, true, x);
        }
        scratch_[0].timed = part_ns_ != nullptr;  // the caller's share stands for that of all threads
        if (part_ns_) since_ = std::chrono::steady_clock::now();
        run_together(*this, threads_);
        return 0;
    }

    int phases() const override { return int(m_.layers) * kPhasesOfLayer + 1; }

    int chunks(int phase) const override {
        if (phase == phases() - 1) return cut(m_.head.rows, m_.head.stride, threads_).count();
        const dyno_block &b = blocks_[size_t(phase / kPhasesOfLayer)];
        switch (kind(phase)) {
            case kInput: return int(m_.heads + 2 * m_.kv_heads);
            case kAttention: return int(m_.kv_heads * stretches(b));
            case kOutput: return cut(b.out.rows, b.out.stride, threads_).count();
            case kUp: return up_cut(b).count();
            default: return cut(b.down.rows, b.down.stride, threads_).count();
        }
    }

    void run(int phase, int chunk, int thread) override {
        Scratch &s = scratch_[size_t(thread)];
        if (phase == phases() - 1) {
            const Cut c = cut(m_.head.rows, m_.head.stride, threads_);
            const dyno_vector post = blocks_.back().post2;
            const Activations a = normed(s, phase, chunk, post, m_.norm, m_.norm_bias, m_.head);
            kernels_.product(m_.head, c.first(chunk), c.last(chunk), a, rows_, logits_, m_.vocabulary, false);
            if (m_.logit_cap)
                for (int64_t t = 0; t < rows_; t++)
                    kernels_.cap(logits_ + t * m_.vocabulary + c.first(chunk), c.last(chunk) - c.first(chunk),
                                 float(m_.logit_cap));
            return;
        }
        const int layer = phase / kPhasesOfLayer;
        const dyno_block &b = blocks_[size_t(layer)];
        switch (kind(phase)) {
            case kInput: return input(s, phase, b, layer, chunk);
            case kAttention: return attention(s, b, layer, chunk);
            case kOutput: return added(b.out, attended(s, phase, b), chunk, b.post1);
            case kUp: return up(s, phase, b, chunk);
            default: return added(b.down, activations(s, phase, h_.data(), m_.neurons, up_rows(), b.down), chunk,
                                  b.post2);
        }
    }

    void ended(int phase) override {
        if (!part_ns_) return;
        const auto now = std::chrono::steady_clock::now();
        const bool attention = phase < phases() - 1 && kind(phase) == kAttention;
        int64_t &small_ns = scratch_[0].small_ns;
        part_ns_[attention ? DYNO_ATTENTION : DYNO_PRODUCTS]
            += std::chrono::duration_cast<std::chrono::nanoseconds>(now - since_).count() - small_ns;
        part_ns_[DYNO_SMALL] += small_ns;
        small_ns = 0;
        since_ = now;
    }

private:
    // What a phase does. Where both halves of a layer read the same x, neither may have added to it before.
    PhaseOfLayer kind(int phase) const {
        const int of_layer = phase % kPhasesOfLayer;
        if (m_.parallel && of_layer == kOutput) return kUp;
        if (m_.parallel && of_layer == kUp) return kOutput;
        return PhaseOfLayer(of_layer);
    }

    int64_t up_rows() const { return m_.neurons * (m_.gated ? 2 : 1); }
    Cut up_cut(const dyno_block &b) const { return cut(m_.neurons, b.up.stride * (m_.gated ? 2 : 1), threads_); }

    // x rows of a product (stride apart), in the form that its weight wants; made once a thread and phase.
    Activations activations(Scratch &s, int phase, const float *x, int64_t columns, int64_t stride, const dyno_matrix &w) {
        const Activations a = s.activations(columns);
        if (s.prepared != phase) {
            const SmallTime time(s);
            for (int64_t t = 0; t < rows_; t++) std::memcpy(a.x + t * a.padded, x + t * stride, size_t(columns) * 4);
            kernels_.prepare(a, rows_, columns, w.kind, w.group);
            s.prepared = phase;
        }
        return a;
    }

    // x normed. Where the phase before gave its sum to a norm (`post`), x is first what that adds up to: every thread
    // does so for itself, and the one with the first chunk, which is the first thing it does here, writes it down.
    Activations normed(Scratch &s, int phase, int chunk, const dyno_vector &post, const dyno_vector &weight,
                       const dyno_vector &bias, const dyno_matrix &w) {
        const Activations a = s.activations(m_.hidden);
        if (s.prepared != phase) {
            const SmallTime time(s);
            const bool middle = phase < phases() - 1 && kind(phase) == kUp;  // of a layer
            const float *from = post.data && !middle ? other_.data() : x_.data();
            float *to = middle ? other_.data() : x_.data();
            for (int64_t t = 0; t < rows_; t++) {
                const float *x = from + t * m_.hidden;
                float *out = a.x + t * a.padded;
                if (post.data) {
                    kernels_.norm(added_.data() + t * m_.hidden, m_.hidden, post, dyno_vector{}, float(m_.norm_eps), false,
                                  out);
                    for (int64_t i = 0; i < m_.hidden; i++) out[i] += x[i];
                    if (chunk == 0) std::memcpy(to + t * m_.hidden, out, size_t(m_.hidden) * 4);
                    x = out;
                }
                kernels_.norm(x, m_.hidden, weight, bias, float(m_.norm_eps), m_.layer_norm != 0, out);
            }
            kernels_.prepare(a, rows_, m_.hidden, w.kind, w.group);
            s.prepared = phase;
        }
        return a;
    }

    Activations attended(Scratch &s, int phase, const dyno_block &b) {
        const int64_t columns = m_.heads * m_.head_size, part = m_.head_size + 2, count = stretches(b);
        const Activations a = s.activations(columns);
        if (s.prepared != phase) {
            const SmallTime time(s);
            for (int64_t t = 0; t < rows_; t++) {
                const int64_t first = first_seen(b, t) / stretch_ - first_stretch(b);
                const int64_t last = (at_ + t) / stretch_ - first_stretch(b);
                for (int64_t h = 0; h < m_.heads; h++)
                    kernels_.combine(parts_.data() + ((t * m_.heads + h) * count + first) * part, last - first + 1,
                                     m_.head_size, a.x + t * a.padded + h * m_.head_size);
            }
            kernels_.prepare(a, rows_, columns, b.out.kind, b.out.group);
            s.prepared = phase;
        }
        return a;
    }

    // A product that is added to x, or waits in added_ for its norm.
    void added(const dyno_matrix &w, const Activations &a, int chunk, const dyno_vector &post) {
        const Cut c = cut(w.rows, w.stride, threads_);
        float *y = post.data ? added_.data() : x_.data();
        kernels_.product(w, c.first(chunk), c.last(chunk), a, rows_, y, m_.hidden, !post.data);
    }

    int64_t first_seen(const dyno_block &b, int64_t t) const {
        return b.window ? std::max<int64_t>(0, at_ + t + 1 - b.window) : 0;
    }
    int64_t first_stretch(const dyno_block &b) const { return first_seen(b, 0) / stretch_; }
    int64_t stretches(const dyno_block &b) const { return (at_ + rows_ - 1) / stretch_ + 1 - first_stretch(b); }

    // Offset of a position in the keys (value 0) or values (1) of a layer, in rows of head_size.
    int64_t place(int layer, int value, int64_t head, int64_t position) const {
        return ((2 * int64_t(layer) + value) * m_.kv_heads + head) * c_.capacity + position;
    }

    void input(Scratch &s, int phase, const dyno_block &b, int layer, int chunk) {
        const dyno_vector post = layer ? blocks_[size_t(layer - 1)].post2 : dyno_vector{};
        const Activations a = normed(s, phase, chunk, post, b.norm1, b.norm1_bias, b.qkv);
        const int64_t size = m_.head_size, all = (m_.heads + 2 * m_.kv_heads) * size;
        kernels_.product(b.qkv, chunk * size, (chunk + 1) * size, a, rows_, heads_.data(), all, false);
        const SmallTime time(s);
        for (int64_t t = 0; t < rows_; t++) {
            float *v = heads_.data() + t * all + chunk * size;
            const float *cosine = b.turn < 0 ? nullptr : turns_[b.turn].cosine + t * (m_.turned / 2);
            const float *sine = b.turn < 0 ? nullptr : turns_[b.turn].sine + t * (m_.turned / 2);
            if (chunk < m_.heads) {
                kernels_.head({b.q_norm, cosine, sine, m_.turned, float(m_.norm_eps), float(m_.score_scale)}, v, size);
                std::memcpy(q_.data() + (t * m_.heads + chunk) * size, v, size_t(size) * 4);
                continue;
            }
            const int value = chunk >= m_.heads + m_.kv_heads;
            if (!value) kernels_.head({b.k_norm, cosine, sine, m_.turned, float(m_.norm_eps), 1.0f}, v, size);
            const int64_t at = place(layer, value, chunk - m_.heads - (value ? m_.kv_heads : 0), at_ + t);
            kernels_.remember(v, size, c_.kind, (char *)c_.data + at * size * bytes_of(c_.kind),
                              c_.scale ? c_.scale + at : nullptr);
        }
    }

    void attention(Scratch &s, const dyno_block &b, int layer, int chunk) {
        const int64_t count = stretches(b), head = chunk / count, stretch = chunk % count, size = m_.head_size;
        const int64_t queries = m_.heads / m_.kv_heads, begin = (first_stretch(b) + stretch) * stretch_;
        for (int64_t t = 0; t < rows_; t++) {
            const int64_t first = std::max(begin, first_seen(b, t)), last = std::min(begin + stretch_, at_ + t + 1);
            if (first >= last) continue;
            const int64_t keys = place(layer, 0, head, 0), values = place(layer, 1, head, 0);
            const int64_t row = t * m_.heads + head * queries;
            kernels_.attend({(const char *)c_.data + keys * size * bytes_of(c_.kind),
                             (const char *)c_.data + values * size * bytes_of(c_.kind),
                             c_.scale ? c_.scale + keys : nullptr, c_.scale ? c_.scale + values : nullptr, c_.kind, size,
                             first, last, queries, q_.data() + row * size, float(m_.score_cap), s.scores.data(),
                             parts_.data() + (row * count + stretch) * (size + 2), count * (size + 2)});
        }
    }

    void up(Scratch &s, int phase, const dyno_block &b, int chunk) {
        const Activations a = normed(s, phase, chunk, b.post1, b.norm2, b.norm2_bias, b.up);
        const Cut c = up_cut(b);
        const int64_t first = c.first(chunk), last = c.last(chunk), all = up_rows();
        kernels_.product(b.up, first, last, a, rows_, h_.data(), all, false);
        if (m_.gated) kernels_.product(b.up, m_.neurons + first, m_.neurons + last, a, rows_, h_.data(), all, false);
        const SmallTime time(s);
        for (int64_t t = 0; t < rows_; t++) {
            float *h = h_.data() + t * all;
            kernels_.activate(h + first, m_.gated ? h + m_.neurons + first : nullptr, last - first, m_.activation);
        }
    }

    dyno_model m_;
    const Kernels &kernels_;
    std::vector<dyno_block> blocks_;
    const int64_t widest_;
    std::vector<float> x_;      // (T, D)
    std::vector<float> added_, other_;  // (T, D): what waits for its norm, and x in the middle of a layer that has them
    std::vector<float> heads_;  // (T, (H + 2K) d), as the product makes them
    std::vector<float> q_;      // (T, H, d)
    std::vector<float> parts_;  // (T, H, stretches, d + 2)
    std::vector<float> h_;      // (T, F), or (T, 2F) with the gates first
    std::vector<Scratch> scratch_;

    dyno_cache c_{};
    int64_t rows_ = 0, at_ = 0, stretch_ = kStretch;
    const dyno_turn *turns_ = nullptr;
    float *logits_ = nullptr;
    int threads_ = 1;
    int64_t *part_ns_ = nullptr;
    std::chrono::steady_clock::time_point since_;
};

}  // namespace dyno

using namespace dyno;

struct dyno_session final : Step {
    using Step::Step;
};

namespace {

bool runs(const dyno_model &m) {
    if (m.hidden < 1 || m.layers < 1 || m.heads < 1 || m.kv_heads < 1 || m.heads % m.kv_heads || m.head_size < 1
        || m.neurons < 1 || m.layers * kPhasesOfLayer + 1 > kMaxPhases || m.heads + 2 * m.kv_heads > kMaxChunks
        || m.kv_heads * (kMostStretches + 2) > kMaxChunks || !m.embedding.data || !m.norm.data || !m.blocks
        || m.turned < 0 || m.turned > m.head_size || m.turned % 2)
        return false;
    const int64_t wide = m.heads * m.head_size;
    for (int64_t i = 0; i < m.layers; i++) {
        const dyno_block &b = m.blocks[i];
        if (!fits(b.qkv, wide + 2 * m.kv_heads * m.head_size, m.hidden) || !fits(b.out, m.hidden, wide)
            || !fits(b.up, m.neurons * (m.gated ? 2 : 1), m.hidden) || !fits(b.down, m.hidden, m.neurons)
            || !b.norm1.data || !b.norm2.data || b.window < 0 || b.turn < -1 || b.turn > 1 || (b.turn >= 0 && !m.turned))
            return false;
        if (!b.post1.data != !b.post2.data || !b.post1.data != !m.blocks[0].post1.data || (b.post1.data && m.parallel))
            return false;
    }
    return fits(m.head, m.vocabulary, m.hidden);
}

}  // namespace

dyno_session *dyno_open(const dyno_model *model, int isa) {
    const Kernels *k = kernels_of(isa);
    if (!k || !runs(*model)) return nullptr;
    try {
        return new dyno_session(*model, *k);
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

void dyno_close(dyno_session *session) { delete session; }

int dyno_step(dyno_session *session, const dyno_cache *cache, const int64_t *ids, int64_t rows, int64_t at,
              const dyno_turn *turns, float *logits, int threads, int64_t *part_ns) {
    return session->take(*cache, ids, rows, at, turns, logits, threads, part_ns);
}
