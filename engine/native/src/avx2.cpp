// Compiled with AVX2, FMA and F16C switched on, and asked only where the machine has them.
#include "kernels.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#include <math.h>

#include "numbers.h"
namespace {
#include "lanes_avx2.h"
}
#include "kernels.inl"

const dyno::Kernels *dyno::avx2() {
    __builtin_cpu_init();  // every machine with AVX2 converts fp16
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? table(DYNO_AVX2, "AVX2") : nullptr;
}
#else
const dyno::Kernels *dyno::avx2() { return nullptr; }
#endif
