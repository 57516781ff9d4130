// AVX-512 with VNNI: sixteen fp32 lanes.

struct Lanes {
    static constexpr int kWidth = 16;
    static constexpr int kI8Offset = 128;  // dot_i8 multiplies by code + 128
    using F = __m512;
    using I = __m512i;

    static F set(float v) { return _mm512_set1_ps(v); }
    static F load(const float *p) { return _mm512_loadu_ps(p); }
    static F load(const Bf16 *p) { return widen(_mm256_loadu_si256((const __m256i *)p)); }
    static F load(const F16 *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
    static void load_apart(const Bf16 *p, F &even, F &odd) {  // of 2 W numbers
        const I both = _mm512_loadu_si512(p);
        even = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
        odd = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(int(0xFFFF0000))));
    }
    static F load(const int8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p))); }
    static F load_part(const float *p, int n) { return _mm512_maskz_loadu_ps(mask(n), p); }
    static F load_part(const Bf16 *p, int n) { return widen(_mm256_maskz_loadu_epi16(mask(n), p)); }
    static F load_part(const F16 *p, int n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask(n), p)); }
    static F load_part(const int8_t *p, int n) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask(n), p)));
    }
    static void store(float *p, F v) { _mm512_storeu_ps(p, v); }
    static void store_part(float *p, F v, int n) { _mm512_mask_storeu_ps(p, mask(n), v); }

    static F add(F a, F b) { return _mm512_add_ps(a, b); }
    static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
    static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    static F div(F a, F b) { return _mm512_div_ps(a, b); }
    static F max(F a, F b) { return _mm512_max_ps(a, b); }
    static F min(F a, F b) { return _mm512_min_ps(a, b); }
    static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    static F abs(F a) { return _mm512_abs_ps(a); }
    static F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static F power2(F n) {  // n a whole number from -126 to 127
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
    }
    static float sum(F v) {
        __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
        __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
        quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
        return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
    }
    // The sums of four vectors. Lanes are added in the same order for each.
    static void sum_four(F a, F b, F c, F d, float *out) {
        const F ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        const F cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        const F all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xEE));
        const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
        _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
    }
    static float maximum(F v) { return _mm512_reduce_max_ps(v); }

    static I zero() { return _mm512_setzero_si512(); }
    static I four(const int8_t *p) {  // in every lane
        int32_t v;
        __builtin_memcpy(&v, p, 4);
        return _mm512_set1_epi32(v);
    }
    static I set_i32(int32_t v) { return _mm512_set1_epi32(v); }
    static I bytes(const void *p) { return _mm512_loadu_si512(p); }
    static I bytes_part(const void *p, int n) { return _mm512_maskz_loadu_epi8(~0ULL >> (64 - n), p); }
    static I low(I v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
    static I high(I v) { return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15)); }
    static I dot_u8(I sum, I w, I x) { return _mm512_dpbusd_epi32(sum, w, x); }
    static I dot_i8(I sum, I w, I x) { return _mm512_dpbusd_epi32(sum, _mm512_xor_si512(w, _mm512_set1_epi8(-128)), x); }
    static I add_i32(I a, I b) { return _mm512_add_epi32(a, b); }
    static I sub_i32(I a, I b) { return _mm512_sub_epi32(a, b); }
    static int32_t sum_i32(I v) { return _mm512_reduce_add_epi32(v); }
    static F to_float(I v) { return _mm512_cvtepi32_ps(v); }
    static void store_i8(int8_t *p, F whole) { _mm_storeu_si128((__m128i *)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(whole))); }

private:
    static __mmask16 mask(int n) { return __mmask16((1u << n) - 1); }
    static F widen(__m256i bf16) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16)); }
};
