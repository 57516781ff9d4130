// 16-bit floating point as stored, and its way to and from fp32 in plain C++. Internal linkage: see kernels.h.
#pragma once
#include <stdint.h>

namespace {

struct Bf16 { uint16_t bits; };
struct F16 { uint16_t bits; };

inline float from_bits(uint32_t bits) {
    float v;
    __builtin_memcpy(&v, &bits, 4);
    return v;
}

inline uint32_t to_bits(float v) {
    uint32_t bits;
    __builtin_memcpy(&bits, &v, 4);
    return bits;
}

inline float widen(Bf16 v) { return from_bits(uint32_t(v.bits) << 16); }

inline float widen(F16 v) {
    const uint32_t sign = uint32_t(v.bits & 0x8000) << 16, rest = v.bits & 0x7FFF;
    if (rest >= 0x7C00) return from_bits(sign | 0x7F800000 | (rest & 0x3FF) << 13);
    // The exponent's bias differs by 112, which a product with 2^112 corrects for subnormal numbers as well.
    return from_bits(sign | to_bits(from_bits(rest << 13) * 0x1p112f));
}

inline Bf16 to_bf16(float v) {  // to the nearest, ties to even
    const uint32_t bits = to_bits(v);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return {uint16_t(bits >> 16 | 0x40)};
    return {uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}

inline F16 to_f16(float v) {  // to the nearest, ties to even
    const uint32_t bits = to_bits(v), sign = bits >> 16 & 0x8000, rest = bits & 0x7FFFFFFF;
    if (rest > 0x7F800000) return {uint16_t(sign | 0x7E00)};
    if (rest >= 0x477FF000) return {uint16_t(sign | 0x7C00)};  // from 65520 on
    if (rest < 0x38800000) {  // below the smallest normal number: count in units of 2^-24
        const float units = from_bits(rest) * 0x1p24f + 0x1p23f;  // the addition rounds to a whole number
        return {uint16_t(sign | (to_bits(units) & 0x7FF))};
    }
    return {uint16_t(sign | ((rest - 0x38000000 + 0xFFF + (rest >> 13 & 1)) >> 13))};
}

}  // namespace
