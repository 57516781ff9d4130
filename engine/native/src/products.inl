// Products of a weight with one to eight rows of activations. A part of kernels.inl, inside its namespace.

void finish(const dyno_matrix &w, int64_t n, float value, float *y, bool add) {
    if (w.bias.data) value += number(w.bias, n);
    *y = add ? *y + value : value;
}

// R rows of a weight at once, `apart` from one to the next, each read from its begin to its end: a few long streams
// keep the memory busier than one does, and a row's neighbours at once, which are many short ones, less.
template <class E, int R, int T>
void float_rows(const dyno_matrix &w, int64_t n, int64_t apart, const float *x, int64_t padded, float *y, int64_t stride,
                bool add) {
    const E *row[R];
    F sums[R * T];
    UNROLL for (int r = 0; r < R; r++) {
        row[r] = (const E *)((const char *)w.data + (n + r * apart) * w.stride);
        UNROLL for (int t = 0; t < T; t++) sums[r * T + t] = Lanes::set(0.0f);
    }
    int64_t k = 0;
    for (; k + W <= w.columns; k += W) {
        UNROLL for (int r = 0; r < R; r++) {
            const F weight = Lanes::load(row[r] + k);
            UNROLL for (int t = 0; t < T; t++)
                sums[r * T + t] = Lanes::fma(weight, Lanes::load(x + t * padded + k), sums[r * T + t]);
        }
    }
    if (k < w.columns) {
        UNROLL for (int r = 0; r < R; r++) {
            const F weight = Lanes::load_part(row[r] + k, int(w.columns - k));
            UNROLL for (int t = 0; t < T; t++)
                sums[r * T + t] = Lanes::fma(weight, Lanes::load(x + t * padded + k), sums[r * T + t]);
        }
    }
    float total[R * T];
    totals(sums, total);
    UNROLL for (int r = 0; r < R; r++) {
        const int64_t at = n + r * apart;
        const float scale = w.scale.data ? number(w.scale, at) : 1.0f;
        UNROLL for (int t = 0; t < T; t++) finish(w, at, total[r * T + t] * scale, y + t * stride + at, add);
    }
}

template <int R, int T>
void i8_rows(const dyno_matrix &w, int64_t n, int64_t apart, const Activations &a, int64_t from, float *y, int64_t stride,
             bool add) {
    const int8_t *x = a.codes + from * a.padded, *row[R];
    I sums[R][T];
    UNROLL for (int r = 0; r < R; r++) {
        row[r] = (const int8_t *)w.data + (n + r * apart) * w.stride;
        UNROLL for (int t = 0; t < T; t++) sums[r][t] = Lanes::zero();
    }
    int64_t k = 0;
    for (; k + 4 * W <= w.columns; k += 4 * W) {
        UNROLL for (int r = 0; r < R; r++) {
            const I weight = Lanes::bytes(row[r] + k);
            UNROLL for (int t = 0; t < T; t++)
                sums[r][t] = Lanes::dot_i8(sums[r][t], weight, Lanes::bytes(x + t * a.padded + k));
        }
    }
    if (k < w.columns) {
        UNROLL for (int r = 0; r < R; r++) {
            const I weight = Lanes::bytes_part(row[r] + k, int(w.columns - k));
            UNROLL for (int t = 0; t < T; t++)
                sums[r][t] = Lanes::dot_i8(sums[r][t], weight, Lanes::bytes(x + t * a.padded + k));
        }
    }
    UNROLL for (int r = 0; r < R; r++) {
        const int64_t at = n + r * apart;
        const float scale = number(w.scale, at);
        UNROLL for (int t = 0; t < T; t++) {
            const int32_t total = Lanes::sum_i32(sums[r][t]) - Lanes::kI8Offset * a.offset[from + t];
            finish(w, at, float(total) * a.scale[from + t] * scale, y + t * stride + at, add);
        }
    }
}

template <class E, int R, int T>
void product_float(const dyno_matrix &w, int64_t first, int64_t last, const Activations &a, int64_t from, float *y,
                   int64_t stride, bool add) {
    const float *x = a.x + from * a.padded;
    const int64_t apart = (last - first) / R;
    for (int64_t n = first; n < first + apart; n++) float_rows<E, R, T>(w, n, apart, x, a.padded, y, stride, add);
    for (int64_t n = first + R * apart; n < last; n++) float_rows<E, 1, T>(w, n, 0, x, a.padded, y, stride, add);
}

template <int R, int T>
void product_i8(const dyno_matrix &w, int64_t first, int64_t last, const Activations &a, int64_t from, float *y,
                int64_t stride, bool add) {
    const int64_t apart = (last - first) / R;
    for (int64_t n = first; n < first + apart; n++) i8_rows<R, T>(w, n, apart, a, from, y, stride, add);
    for (int64_t n = first + R * apart; n < last; n++) i8_rows<1, T>(w, n, 0, a, from, y, stride, add);
}

// W rows of a panel from row n on: every lane sums a row of its own, so nothing is added across lanes.
template <int T>
void i4_rows(const dyno_matrix &w, int64_t n, const Activations &a, int64_t from, F (&sums)[T]) {
    const int64_t groups = (w.columns + w.group - 1) / w.group, panel = n / kPanel, lane = n % kPanel;
    const int64_t blocks = a.padded / kBlock;
    const uint8_t *codes = (const uint8_t *)w.data + panel * kPanel * w.stride + 4 * lane;
    const Bf16 *scales = (const Bf16 *)w.scale.data + 2 * panel * kPanel * groups + lane;
    const int8_t *x = a.codes + from * a.padded;
    const float *scale = a.scale + from * blocks, *sum = a.sums + from * blocks;
    const int32_t *offset = a.offset + from * blocks;
    UNROLL for (int t = 0; t < T; t++) sums[t] = Lanes::set(0.0f);
    for (int64_t g = 0, b = 0; g < groups; g++, scales += 2 * kPanel) {
        F of_group[T];
        UNROLL for (int t = 0; t < T; t++) of_group[t] = Lanes::set(0.0f);
        for (const int64_t end = (g + 1) * w.group / kBlock; b < end; b++, codes += kPanel * kBlock / 2) {
            I dots[T];
            UNROLL for (int t = 0; t < T; t++) dots[t] = Lanes::set_i32(offset[t * blocks + b]);
            UNROLL for (int j = 0; j < 4; j++) {
                const I both = Lanes::bytes(codes + j * 4 * kPanel), lower = Lanes::low(both), upper = Lanes::high(both);
                UNROLL for (int t = 0; t < T; t++) {
                    const int8_t *four = x + t * a.padded + b * kBlock + 4 * j;
                    dots[t] = Lanes::dot_u8(dots[t], lower, Lanes::four(four));
                    dots[t] = Lanes::dot_u8(dots[t], upper, Lanes::four(four + kBlock / 2));
                }
            }
            UNROLL for (int t = 0; t < T; t++)
                of_group[t] = Lanes::fma(Lanes::to_float(dots[t]), Lanes::set(scale[t * blocks + b]), of_group[t]);
        }
        const F weight = Lanes::load(scales), zero = Lanes::load(scales + kPanel);
        UNROLL for (int t = 0; t < T; t++) {
            sums[t] = Lanes::fma(of_group[t], weight, sums[t]);
            sums[t] = Lanes::fma(zero, Lanes::set(sum[t * blocks + g]), sums[t]);
        }
    }
}

template <int T>
void product_i4(const dyno_matrix &w, int64_t first, int64_t last, const Activations &a, int64_t from, float *y,
                int64_t stride, bool add) {
    for (int64_t n = first / W * W; n < last; n += W) {
        F sums[T];
        i4_rows<T>(w, n, a, from, sums);
        const bool whole = n >= first && n + W <= last;
        const F bias = whole && w.bias.data ? numbers(w.bias, n, w.rows) : Lanes::set(0.0f);
        UNROLL for (int t = 0; t < T; t++) {
            float *out = y + t * stride + n;
            if (whole) {
                const F value = Lanes::add(sums[t], bias);
                Lanes::store(out, add ? Lanes::add(Lanes::load(out), value) : value);
                continue;
            }
            float each[W];
            Lanes::store(each, sums[t]);
            for (int64_t i = n < first ? first - n : 0; i < W && n + i < last; i++) finish(w, n + i, each[i], out + i, add);
        }
    }
}

template <int R, int T>
void product_rows(const dyno_matrix &w, int64_t first, int64_t last, const Activations &a, int64_t from, float *y,
                  int64_t stride, bool add) {
    y += from * stride;
    switch (w.kind) {
        case DYNO_F32: return product_float<float, R, T>(w, first, last, a, from, y, stride, add);
        case DYNO_BF16: return product_float<Bf16, R, T>(w, first, last, a, from, y, stride, add);
        case DYNO_F16: return product_float<F16, R, T>(w, first, last, a, from, y, stride, add);
        case DYNO_I8: return product_float<int8_t, R, T>(w, first, last, a, from, y, stride, add);
        case DYNO_I8_DYNAMIC: return product_i8<R, T>(w, first, last, a, from, y, stride, add);
        default: return product_i4<T>(w, first, last, a, from, y, stride, add);
    }
}

void product(const dyno_matrix &w, int64_t first, int64_t last, const Activations &a, int64_t rows, float *y,
             int64_t stride, bool add) {
    int64_t from = 0;
    for (; from + kTogether <= rows; from += kTogether) product_rows<2, kTogether>(w, first, last, a, from, y, stride, add);
    if (rows - from == 3) product_rows<2, 3>(w, first, last, a, from, y, stride, add);
    else if (rows - from == 2) product_rows<2, 2>(w, first, last, a, from, y, stride, add);
    else if (rows - from == 1 && w.columns < kShort) product_rows<4, 1>(w, first, last, a, from, y, stride, add);
    else if (rows - from == 1) product_rows<2, 1>(w, first, last, a, from, y, stride, add);
}
