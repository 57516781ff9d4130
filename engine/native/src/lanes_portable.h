// Plain C++ for any machine: four lanes that a compiler may or may not turn into vectors.

struct Lanes {
    static constexpr int kWidth = 4;
    static constexpr int kI8Offset = 0;
    struct F { float v[4]; };
    struct I { int8_t b[16]; };  // sixteen bytes, or four 32-bit integers by copy

    static F set(float v) { return {{v, v, v, v}}; }
    static F load(const float *p) { return {{p[0], p[1], p[2], p[3]}}; }
    static F load(const Bf16 *p) { return {{widen(p[0]), widen(p[1]), widen(p[2]), widen(p[3])}}; }
    static F load(const F16 *p) { return {{widen(p[0]), widen(p[1]), widen(p[2]), widen(p[3])}}; }
    static void load_apart(const Bf16 *p, F &even, F &odd) {  // of 2 W numbers
        for (int i = 0; i < 4; i++) even.v[i] = widen(p[2 * i]), odd.v[i] = widen(p[2 * i + 1]);
    }
    static F load(const int8_t *p) { return {{float(p[0]), float(p[1]), float(p[2]), float(p[3])}}; }
    template <class E> static F load_part(const E *p, int n) {
        E whole[kWidth] = {};
        __builtin_memcpy(whole, p, n * sizeof(E));
        return load(whole);
    }
    static void store(float *p, F v) { __builtin_memcpy(p, v.v, sizeof v.v); }
    static void store_part(float *p, F v, int n) { __builtin_memcpy(p, v.v, n * sizeof(float)); }

    static F add(F a, F b) { return each(a, b, [](float x, float y) { return x + y; }); }
    static F sub(F a, F b) { return each(a, b, [](float x, float y) { return x - y; }); }
    static F mul(F a, F b) { return each(a, b, [](float x, float y) { return x * y; }); }
    static F div(F a, F b) { return each(a, b, [](float x, float y) { return x / y; }); }
    static F max(F a, F b) { return each(a, b, [](float x, float y) { return x > y ? x : y; }); }
    static F min(F a, F b) { return each(a, b, [](float x, float y) { return x < y ? x : y; }); }
    static F fma(F a, F b, F c) { return add(mul(a, b), c); }
    static F abs(F a) { return each(a, a, [](float x, float) { return fabsf(x); }); }
    static F round(F a) { return each(a, a, [](float x, float) { return rintf(x); }); }
    static F power2(F n) { return each(n, n, [](float x, float) { return from_bits(uint32_t(int32_t(x == x ? x : 0) + 127) << 23); }); }
    static float sum(F a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
    static void sum_four(F a, F b, F c, F d, float *out) {
        out[0] = sum(a), out[1] = sum(b), out[2] = sum(c), out[3] = sum(d);
    }
    static float maximum(F a) {
        const float left = a.v[0] > a.v[1] ? a.v[0] : a.v[1], right = a.v[2] > a.v[3] ? a.v[2] : a.v[3];
        return left > right ? left : right;
    }

    static I zero() { return {}; }
    static I four(const int8_t *p) {  // in every lane
        I v;
        for (int i = 0; i < 16; i++) v.b[i] = p[i % 4];
        return v;
    }
    static I set_i32(int32_t v) {
        const int32_t s[4] = {v, v, v, v};
        return bytes(s);
    }
    static I bytes(const void *p) {
        I v;
        __builtin_memcpy(v.b, p, 16);
        return v;
    }
    static I bytes_part(const void *p, int n) {
        I v{};
        __builtin_memcpy(v.b, p, n);
        return v;
    }
    static I low(I v) {
        for (int8_t &b : v.b) b = int8_t(b & 15);
        return v;
    }
    static I high(I v) {
        for (int8_t &b : v.b) b = int8_t(uint8_t(b) >> 4);
        return v;
    }
    static I dot_u8(I sum, I w, I x) { return dot_i8(sum, w, x); }  // codes up to 15 are the same in both
    static I dot_i8(I sum, I w, I x) {
        int32_t s[4];
        __builtin_memcpy(s, sum.b, 16);
        for (int i = 0; i < 16; i++) s[i / 4] += int32_t(w.b[i]) * x.b[i];
        return bytes(s);
    }
    static I add_i32(I a, I b) {
        int32_t s[4], t[4];
        __builtin_memcpy(s, a.b, 16);
        __builtin_memcpy(t, b.b, 16);
        for (int i = 0; i < 4; i++) s[i] += t[i];
        return bytes(s);
    }
    static I sub_i32(I a, I b) {
        int32_t s[4], t[4];
        __builtin_memcpy(s, a.b, 16);
        __builtin_memcpy(t, b.b, 16);
        for (int i = 0; i < 4; i++) s[i] -= t[i];
        return bytes(s);
    }
    static int32_t sum_i32(I v) {
        int32_t s[4];
        __builtin_memcpy(s, v.b, 16);
        return s[0] + s[1] + s[2] + s[3];
    }
    static F to_float(I v) {
        int32_t s[4];
        __builtin_memcpy(s, v.b, 16);
        return {{float(s[0]), float(s[1]), float(s[2]), float(s[3])}};
    }
    static void store_i8(int8_t *p, F whole) {
        for (int i = 0; i < 4; i++) p[i] = int8_t(whole.v[i] > -128 ? whole.v[i] < 127 ? whole.v[i] : 127 : -128);
    }

private:
    template <class Do> static F each(F a, F b, Do f) {
        return {{f(a.v[0], b.v[0]), f(a.v[1], b.v[1]), f(a.v[2], b.v[2]), f(a.v[3], b.v[3])}};
    }
};
