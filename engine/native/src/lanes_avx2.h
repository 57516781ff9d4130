// AVX2 with FMA and F16C: eight fp32 lanes.

struct Lanes {
    static constexpr int kWidth = 8;
    static constexpr int kI8Offset = 0;
    using F = __m256;
    using I = __m256i;

    static F set(float v) { return _mm256_set1_ps(v); }
    static F load(const float *p) { return _mm256_loadu_ps(p); }
    static F load(const Bf16 *p) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
    }
    static F load(const F16 *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
    static void load_apart(const Bf16 *p, F &even, F &odd) {  // of 2 W numbers
        const I both = _mm256_loadu_si256((const __m256i *)p);
        even = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
        odd = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(int(0xFFFF0000))));
    }
    static F load(const int8_t *p) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
    }
    template <class E> static F load_part(const E *p, int n) {
        E whole[kWidth] = {};
        __builtin_memcpy(whole, p, n * sizeof(E));
        return load(whole);
    }
    static void store(float *p, F v) { _mm256_storeu_ps(p, v); }
    static void store_part(float *p, F v, int n) {
        float whole[kWidth];
        store(whole, v);
        __builtin_memcpy(p, whole, n * sizeof(float));
    }

    static F add(F a, F b) { return _mm256_add_ps(a, b); }
    static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
    static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
    static F div(F a, F b) { return _mm256_div_ps(a, b); }
    static F max(F a, F b) { return _mm256_max_ps(a, b); }
    static F min(F a, F b) { return _mm256_min_ps(a, b); }
    static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
    static F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
    static F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static F power2(F n) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
    }
    static float sum(F v) {
        __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        half = _mm_add_ps(half, _mm_movehl_ps(half, half));
        return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
    }
    // The sums of four vectors. Lanes are added in the same order for each.
    static void sum_four(F a, F b, F c, F d, float *out) {
        const F ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        const F cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        const F all = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xEE));
        _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
    }
    static float maximum(F v) {
        __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        half = _mm_max_ps(half, _mm_movehl_ps(half, half));
        return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
    }

    static I zero() { return _mm256_setzero_si256(); }
    static I four(const int8_t *p) {  // in every lane
        int32_t v;
        __builtin_memcpy(&v, p, 4);
        return _mm256_set1_epi32(v);
    }
    static I set_i32(int32_t v) { return _mm256_set1_epi32(v); }
    static I bytes(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
    static I bytes_part(const void *p, int n) {
        char whole[32] = {};
        __builtin_memcpy(whole, p, n);
        return bytes(whole);
    }
    static I low(I v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
    static I high(I v) { return _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15)); }
    // Pairs of products stay below 2^15: codes up to 15 here, magnitudes up to 127 below.
    static I dot_u8(I sum, I w, I x) {
        return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
    }
    static I dot_i8(I sum, I w, I x) { return dot_u8(sum, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w)); }
    static I add_i32(I a, I b) { return _mm256_add_epi32(a, b); }
    static I sub_i32(I a, I b) { return _mm256_sub_epi32(a, b); }
    static int32_t sum_i32(I v) {
        __m128i half = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
        half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4E));
        return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xB1)));
    }
    static F to_float(I v) { return _mm256_cvtepi32_ps(v); }
    static void store_i8(int8_t *p, F whole) {
        const __m256i v = _mm256_cvtps_epi32(whole);
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
        _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(words, words));
    }
};
