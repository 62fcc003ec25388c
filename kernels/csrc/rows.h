// What a layer does to each row between its products. Included once for each instruction set, after
// tile.h, inside the same namespace; no include guard.

// The number as it is after a stay in memory.
inline Vector rounded(Vector vector, const float*) { return vector; }
inline Vector rounded(Vector vector, const Bfloat16*) {
    Bfloat16 stored[LANES];
    store(stored, vector);
    return load(stored);
}

// weight * x / sqrt(mean(x^2) + epsilon), rounded before the weight as Llama's code does.
template <typename Number>
void normalise(const Number* from, const Number* weight, Number* to, int64_t width, float epsilon) {
    Vector squares{};
    for (int64_t at = 0; at < width; at += LANES) {
        const Vector part = load(from + at);
        squares += part * part;
    }
    const float scale = 1 / sqrtf(sum(squares) / width + epsilon);
    for (int64_t at = 0; at < width; at += LANES)
        store(to + at, load(weight + at) * rounded(load(from + at) * scale, to));
}

// gate = silu(gate) * up, in place.
template <typename Number>
void open_gate(Number* gate, const Number* up, int64_t width) {
    for (int64_t at = 0; at < width; at += LANES) {
        const Vector x = load(gate + at);
        const Vector power = x * -LOG2_E;
        const Vector bounded = power > 126.0f ? broadcast(126.0f) : power;
        const Vector open = power > 126.0f ? Vector{} : x * reciprocal(1.0f + exp2<false>(bounded));
        store(gate + at, rounded(open, gate) * load(up + at));
    }
}

// x * cos + (-second half of x, first half of x) * sin: rotary position embedding (Su et al. 2021),
// rounded where transformers' code does.
template <typename Number>
void turn(const Number* from, Number* to, const Number* cos, const Number* sin, int64_t width) {
    const int64_t half = width / 2;
    for (int64_t at = 0; at < half; at += LANES) {
        const Vector first = load(from + at), second = load(from + half + at);
        store(to + at, rounded(first * load(cos + at), to) - rounded(second * load(sin + at), to));
        store(to + half + at, rounded(second * load(cos + half + at), to) +
                                  rounded(first * load(sin + half + at), to));
    }
}

template <typename Number>
void normalise_rows(const Rows& rows) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows.count; ++row)
        normalise((const Number*)rows.first + row * rows.width, (const Number*)rows.second,
                  (Number*)rows.output + row * rows.width, rows.width, rows.epsilon);
}

template <typename Number>
void open_gates(const Rows& rows) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows.count; ++row)
        open_gate((Number*)rows.output + row * rows.width,
                  (const Number*)rows.second + row * rows.width, rows.width);
}

template <typename Number>
void turn_heads(const Heads& heads) {
#pragma omp parallel for schedule(static)
    for (int64_t token = 0; token < heads.tokens; ++token) {
        const int64_t angles = token * heads.width;
        for (int64_t head = 0; head < heads.heads; ++head)
            turn((const Number*)heads.from + token * heads.token_stride + head * heads.head_stride,
                 (Number*)heads.to + (token * heads.heads + head) * heads.width,
                 (const Number*)heads.cos + angles, (const Number*)heads.sin + angles, heads.width);
    }
}
