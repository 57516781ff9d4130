// NEON with the dot product instructions (ARMv8.2): four fp32 lanes.

struct Lanes {
    static constexpr int kWidth = 4;
    static constexpr int kI8Offset = 0;
    using F = float32x4_t;
    using I = int32x4_t;

    static F set(float v) { return vdupq_n_f32(v); }
    static F load(const float *p) { return vld1q_f32(p); }
    static F load(const Bf16 *p) {
        return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16((const uint16_t *)p), 16));
    }
    static F load(const F16 *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)p))); }
    static void load_apart(const Bf16 *p, F &even, F &odd) {  // of 2 W numbers
        const uint32x4_t both = vreinterpretq_u32_u16(vld1q_u16((const uint16_t *)p));
        even = vreinterpretq_f32_u32(vshlq_n_u32(both, 16));
        odd = vreinterpretq_f32_u32(vandq_u32(both, vdupq_n_u32(0xFFFF0000)));
    }
    static F load(const int8_t *p) {
        int32_t four;
        __builtin_memcpy(&four, p, 4);
        return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four))))));
    }
    template <class E> static F load_part(const E *p, int n) {
        E whole[kWidth] = {};
        __builtin_memcpy(whole, p, n * sizeof(E));
        return load(whole);
    }
    static void store(float *p, F v) { vst1q_f32(p, v); }
    static void store_part(float *p, F v, int n) {
        float whole[kWidth];
        store(whole, v);
        __builtin_memcpy(p, whole, n * sizeof(float));
    }

    static F add(F a, F b) { return vaddq_f32(a, b); }
    static F sub(F a, F b) { return vsubq_f32(a, b); }
    static F mul(F a, F b) { return vmulq_f32(a, b); }
    static F div(F a, F b) { return vdivq_f32(a, b); }
    static F max(F a, F b) { return vmaxq_f32(a, b); }
    static F min(F a, F b) { return vminq_f32(a, b); }
    static F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
    static F abs(F a) { return vabsq_f32(a); }
    static F round(F a) { return vrndnq_f32(a); }
    static F power2(F n) { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23)); }
    static float sum(F v) { return vaddvq_f32(v); }
    static void sum_four(F a, F b, F c, F d, float *out) { vst1q_f32(out, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d))); }
    static float maximum(F v) { return vmaxvq_f32(v); }

    static I zero() { return vdupq_n_s32(0); }
    static I four(const int8_t *p) {  // in every lane
        int32_t v;
        __builtin_memcpy(&v, p, 4);
        return vdupq_n_s32(v);
    }
    static I set_i32(int32_t v) { return vdupq_n_s32(v); }
    static I bytes(const void *p) { return vreinterpretq_s32_s8(vld1q_s8((const int8_t *)p)); }
    static I bytes_part(const void *p, int n) {
        char whole[16] = {};
        __builtin_memcpy(whole, p, n);
        return bytes(whole);
    }
    static I low(I v) { return vandq_s32(v, vreinterpretq_s32_s8(vdupq_n_s8(15))); }
    static I high(I v) { return vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(v), 4)); }
    static I dot_u8(I sum, I w, I x) { return dot_i8(sum, w, x); }  // codes up to 15 are the same in both
    static I dot_i8(I sum, I w, I x) { return vdotq_s32(sum, vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(x)); }
    static I add_i32(I a, I b) { return vaddq_s32(a, b); }
    static I sub_i32(I a, I b) { return vsubq_s32(a, b); }
    static int32_t sum_i32(I v) { return vaddvq_s32(v); }
    static F to_float(I v) { return vcvtq_f32_s32(v); }
    static void store_i8(int8_t *p, F whole) {
        const int16x4_t words = vqmovn_s32(vcvtnq_s32_f32(whole));
        const int32_t four = vget_lane_s32(vreinterpret_s32_s8(vqmovn_s16(vcombine_s16(words, words))), 0);
        __builtin_memcpy(p, &four, 4);
    }
};
