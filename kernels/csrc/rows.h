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
