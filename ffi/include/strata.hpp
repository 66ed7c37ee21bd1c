/*
 * Strata in C++17: owners for the handles of strata.h, and no more. Header only; link what strata.h needs. What a
 * function does, what it costs and which thread may call it is said in strata.h.
 *
 *   strata::model model("RUN");
 *   strata::ctx ctx(model);                              // one for each thread
 *   strata::codes parents, children;
 *   ctx.encode(strata::rows(hidden, n, d), parents, children);
 *   for (auto [latent, value] : parents[0]) std::printf("%u=%g\n", latent, value);
 *
 * Handles are movable and not copyable, free themselves, and are empty when default-constructed or moved from. An empty
 * one is an argument that is NULL: its functions fail with STRATA_STATUS_NULL. get() is for the functions of strata.h.
 *
 * Errors. A function that can fail throws strata::error. If STRATA_NO_EXCEPTIONS is defined, or the compiler has no
 * exceptions, it returns a strata::result instead, which is true where all is well; then there are no constructors that
 * can fail: default-construct, and call load, start or create. Both styles may be linked into one program. What the
 * standard library throws (std::bad_alloc, from codes) is not caught.
 */
#ifndef STRATA_HPP
#define STRATA_HPP

#include <strata.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#if !defined(STRATA_NO_EXCEPTIONS) && !defined(__cpp_exceptions)
#define STRATA_NO_EXCEPTIONS
#endif
#ifndef STRATA_NO_EXCEPTIONS
#include <stdexcept>
#endif

namespace strata {
#ifdef STRATA_NO_EXCEPTIONS
inline namespace returning {

// What a function returns that can fail.
struct [[nodiscard]] result {
    strata_status status = STRATA_STATUS_OK;
    // One sentence where it failed.
    std::string message;

    explicit operator bool() const noexcept { return status == STRATA_STATUS_OK; }
};

namespace detail {
inline result done(strata_status status, const char *what) {
    return status == STRATA_STATUS_OK ? result{} : result{status, what};
}
}  // namespace detail
#else
inline namespace throwing {

// What a function throws that fails: what() is one sentence.
class error : public std::runtime_error {
  public:
    error(strata_status status, const char *what) : std::runtime_error(what), status_(status) {}
    strata_status status() const noexcept { return status_; }

  private:
    strata_status status_;
};

using result = void;

namespace detail {
inline void done(strata_status status, const char *what) {
    if (status != STRATA_STATUS_OK) throw error(status, what);
}
}  // namespace detail
#endif

namespace detail {
// For functions that say what went wrong in words.
inline strata_error no_error() noexcept {
    strata_error err{};
    err.struct_size = sizeof err;
    return err;
}

// For functions of a context, which keeps their sentence.
inline result said(strata_status status, const strata_ctx *ctx) {
    return done(status, status == STRATA_STATUS_OK ? "" : strata_ctx_message(ctx));
}

// For functions that only return a status.
inline result named(strata_status status, const char *function) {
    char what[96];
    if (status != STRATA_STATUS_OK) std::snprintf(what, sizeof what, "%s: %s", function, strata_status_name(status));
    return done(status, what);
}

struct free_model {
    void operator()(strata_model *p) const noexcept { strata_model_free(p); }
};
struct free_ctx {
    void operator()(strata_ctx *p) const noexcept { strata_ctx_free(p); }
};
struct free_dump {
    void operator()(strata_dump *p) const noexcept { strata_dump_abandon(p); }
};
struct free_watch {
    void operator()(strata_watch *p) const noexcept { strata_watch_free(p); }
};
struct free_probe {
    void operator()(strata_probe *p) const noexcept { strata_probe_free(p); }
};
struct free_probe_state {
    void operator()(strata_probe_state *p) const noexcept { strata_probe_state_free(p); }
};
}  // namespace detail

// n rows of d numbers to read, stride_bytes apart; 0: one after the other. Borrowed.
inline strata_rows rows(const void *data, std::size_t n, std::size_t d, strata_dtype dtype, std::size_t stride_bytes = 0) noexcept {
    strata_rows x{};
    x.struct_size = sizeof x;
    x.data = data;
    x.n_rows = n;
    x.d = d;
    x.row_stride_bytes = stride_bytes ? stride_bytes : d * (dtype == STRATA_DTYPE_F32 ? 4 : 2);
    x.dtype = dtype;
    return x;
}
inline strata_rows rows(const float *data, std::size_t n, std::size_t d, std::size_t stride_bytes = 0) noexcept {
    return rows(data, n, d, STRATA_DTYPE_F32, stride_bytes);
}

// The same to write.
inline strata_rows_mut rows_mut(void *data, std::size_t n, std::size_t d, strata_dtype dtype, std::size_t stride_bytes = 0) noexcept {
    strata_rows_mut x{};
    x.struct_size = sizeof x;
    x.data = data;
    x.n_rows = n;
    x.d = d;
    x.row_stride_bytes = rows(data, n, d, dtype, stride_bytes).row_stride_bytes;
    x.dtype = dtype;
    return x;
}
inline strata_rows_mut rows_mut(float *data, std::size_t n, std::size_t d, std::size_t stride_bytes = 0) noexcept {
    return rows_mut(data, n, d, STRATA_DTYPE_F32, stride_bytes);
}
inline strata_rows rows(const strata_rows_mut &x) noexcept {
    return rows(x.data, x.n_rows, x.d, x.dtype, x.row_stride_bytes);
}

// A model. Share it between threads by reference.
class model {
  public:
    model() = default;
#ifndef STRATA_NO_EXCEPTIONS
    explicit model(const std::string &path, const strata_model_params *params = nullptr) { load(path, params); }
    // From the bytes of cfg.json and sae_weights.safetensors.
    model(const void *cfg, std::size_t cfg_len, const void *weights, std::size_t weights_len,
          const strata_model_params *params = nullptr) {
        load(cfg, cfg_len, weights, weights_len, params);
    }
#endif

    // Load another model; what was held is kept if this fails.
    result load(const std::string &path, const strata_model_params *params = nullptr) {
        strata_error err = detail::no_error();
        strata_model *out = nullptr;
        const strata_status status = strata_model_load(path.c_str(), params, &out, &err);
        return take(status, out, err);
    }
    result load(const void *cfg, std::size_t cfg_len, const void *weights, std::size_t weights_len,
                const strata_model_params *params = nullptr) {
        strata_error err = detail::no_error();
        strata_model *out = nullptr;
        const strata_status status = strata_model_load_buffers(cfg, cfg_len, weights, weights_len, params, &out, &err);
        return take(status, out, err);
    }

    // What was assumed in loading, a sentence per line; empty where nothing was.
    std::string notes() const { return strata_model_notes(get()); }
    // The sizes; all 0 of an empty model.
    strata_model_info info() const noexcept {
        strata_model_info out{};
        out.struct_size = sizeof out;
        (void)strata_model_get_info(get(), &out);
        return out;
    }
    // Where it comes from; the strings belong to the model.
    result metadata(strata_model_metadata &out) const {
        out = strata_model_metadata{};
        out.struct_size = sizeof out;
        return detail::named(strata_model_get_metadata(get(), &out), "strata_model_get_metadata");
    }
    // The parents of all latents of level 2.
    result parents(std::vector<std::uint32_t> &out) const {
        out.resize(info().f2);
        return detail::named(strata_model_parents(get(), out.data(), out.size()), "strata_model_parents");
    }
    result parent(std::uint32_t latent2, std::uint32_t &out) const {
        return detail::named(strata_model_parent(get(), latent2, &out), "strata_model_parent");
    }
    // out: info().d_out places.
    result decoder_row(std::uint32_t level, std::uint32_t latent, float *out, std::size_t out_len) const {
        return detail::named(strata_model_decoder_row(get(), level, latent, out, out_len), "strata_model_decoder_row");
    }
#ifndef STRATA_NO_EXCEPTIONS
    std::uint32_t parent(std::uint32_t latent2) const {
        std::uint32_t out = STRATA_ROOT;
        parent(latent2, out);
        return out;
    }
    std::vector<float> decoder_row(std::uint32_t level, std::uint32_t latent) const {
        std::vector<float> out(info().d_out);
        decoder_row(level, latent, out.data(), out.size());
        return out;
    }
#endif

    const strata_model *get() const noexcept { return handle_.get(); }
    explicit operator bool() const noexcept { return handle_ != nullptr; }

  private:
    result take(strata_status status, strata_model *out, const strata_error &err) {
        if (status == STRATA_STATUS_OK) handle_.reset(out);
        return detail::done(status, err.message);
    }
    std::unique_ptr<strata_model, detail::free_model> handle_;
};

// The latents of a model whose codes are wanted. Share it between threads by reference; it keeps its model alive.
class watch {
  public:
    watch() = default;
#ifndef STRATA_NO_EXCEPTIONS
    watch(const model &m, const std::vector<std::uint32_t> &latents1, const std::vector<std::uint32_t> &latents2) {
        set(m, latents1, latents2);
    }
#endif

    // Watch other latents; what was held is kept if this fails.
    result set(const model &m, const std::vector<std::uint32_t> &latents1, const std::vector<std::uint32_t> &latents2) {
        strata_error err = detail::no_error();
        strata_watch *out = nullptr;
        const strata_status status = strata_watch_new(m.get(), latents1.data(), latents1.size(), latents2.data(),
                                                      latents2.size(), &out, &err);
        if (status == STRATA_STATUS_OK) handle_.reset(out);
        return detail::done(status, err.message);
    }
    // What it computes, and why; all 0 of an empty one.
    strata_watch_info info() const noexcept {
        strata_watch_info out{};
        out.struct_size = sizeof out;
        (void)strata_watch_get_info(get(), &out);
        return out;
    }

    const strata_watch *get() const noexcept { return handle_.get(); }
    explicit operator bool() const noexcept { return handle_ != nullptr; }

  private:
    std::unique_ptr<strata_watch, detail::free_watch> handle_;
};

// Linear heads on rows and codes, from a file of the command line. Share it between threads by reference.
class probe {
  public:
    probe() = default;
#ifndef STRATA_NO_EXCEPTIONS
    probe(const std::string &path, const model &m) { load(path, m); }
#endif

    // Load other heads; what was held is kept if this fails.
    result load(const std::string &path, const model &m) {
        strata_error err = detail::no_error();
        strata_probe *out = nullptr;
        const strata_status status = strata_probe_load(path.c_str(), m.get(), &out, &err);
        if (status == STRATA_STATUS_OK) handle_.reset(out);
        return detail::done(status, err.message);
    }
    std::size_t heads() const noexcept { return strata_probe_heads(get()); }
    // The name belongs to the probe.
    result head(std::size_t number, strata_head_info &out) const {
        out = strata_head_info{};
        out.struct_size = sizeof out;
        return detail::named(strata_probe_get_head(get(), number, &out), "strata_probe_get_head");
    }

    const strata_probe *get() const noexcept { return handle_.get(); }
    explicit operator bool() const noexcept { return handle_ != nullptr; }

  private:
    std::unique_ptr<strata_probe, detail::free_probe> handle_;
};

// What is kept of the scores of a probe per sequence. One thread at a time; it keeps its probe alive.
class probe_state {
  public:
    probe_state() = default;
#ifndef STRATA_NO_EXCEPTIONS
    explicit probe_state(const probe &p, std::size_t n_sequences = 1, const std::vector<double> &on = {},
                         const std::vector<double> &off = {}) {
        start(p, n_sequences, on, off);
    }
#endif

    // Forget everything, and tell so many sequences apart. on, off: one threshold per head, or none for the defaults;
    // another number is an error.
    result start(const probe &p, std::size_t n_sequences = 1, const std::vector<double> &on = {},
                 const std::vector<double> &off = {}) {
        strata_error err = detail::no_error();
        strata_probe_state_params params;
        strata_probe_state_params_init(&params);
        params.n_sequences = n_sequences;
        const auto fits = [&](const std::vector<double> &all) { return all.empty() || all.size() == p.heads(); };
        if (p && !(fits(on) && fits(off))) return detail::done(STRATA_STATUS_SHAPE, "expected one threshold per head");
        params.on = on.empty() ? nullptr : on.data();
        params.off = off.empty() ? nullptr : off.data();
        strata_probe_state *out = nullptr;
        const strata_status status = strata_probe_state_new(p.get(), &params, &out, &err);
        if (status == STRATA_STATUS_OK) handle_.reset(out);
        if (status == STRATA_STATUS_OK) flags_ = p.heads() * n_sequences;
        return detail::done(status, err.message);
    }
    result reset(std::uint32_t sequence) {
        return detail::named(strata_probe_state_reset(get(), sequence), "strata_probe_state_reset");
    }
    result read(std::uint32_t sequence, std::size_t head, strata_probe_reading &out) const {
        out = strata_probe_reading{};
        out.struct_size = sizeof out;
        return detail::named(strata_probe_state_read(handle_.get(), sequence, head, &out), "strata_probe_state_read");
    }
    // out[sequence * heads + head]: 1 where there is an alarm.
    result alarms(std::vector<std::uint8_t> &out) const {
        out.resize(flags_);
        return detail::named(strata_probe_state_alarms(handle_.get(), out.data(), out.size()), "strata_probe_state_alarms");
    }

    strata_probe_state *get() const noexcept { return handle_.get(); }
    explicit operator bool() const noexcept { return handle_ != nullptr; }

  private:
    std::size_t flags_ = 0;
    std::unique_ptr<strata_probe_state, detail::free_probe_state> handle_;
};

// Which latents fire on each row, in memory of its own, which encode grows and reuses.
class codes {
  public:
    struct entry {
        std::uint32_t latent;
        float value;
    };
    class iterator {
      public:
        using iterator_category = std::input_iterator_tag;
        using value_type = entry;
        using difference_type = std::ptrdiff_t;
        using pointer = const entry *;
        using reference = entry;
        iterator(const std::uint32_t *index, const float *value) noexcept : index_(index), value_(value) {}
        entry operator*() const noexcept { return {*index_, *value_}; }
        iterator &operator++() noexcept { return ++index_, ++value_, *this; }
        iterator operator++(int) noexcept { return {index_++, value_++}; }
        bool operator==(const iterator &other) const noexcept { return index_ == other.index_; }
        bool operator!=(const iterator &other) const noexcept { return index_ != other.index_; }

      private:
        const std::uint32_t *index_;
        const float *value_;
    };
    class row {
      public:
        row(const std::uint32_t *index, const float *value, std::size_t n) noexcept : index_(index), value_(value), n_(n) {}
        iterator begin() const noexcept { return {index_, value_}; }
        iterator end() const noexcept { return {index_ + n_, value_ + n_}; }
        std::size_t size() const noexcept { return n_; }

      private:
        const std::uint32_t *index_;
        const float *value_;
        std::size_t n_;
    };

    // Room for n_codes entries in n_rows rows; what was in it is gone.
    void resize(std::size_t n_rows, std::size_t n_codes) {
        if (offsets_.size() < n_rows + 1) offsets_.resize(n_rows + 1);
        if (index_.size() < n_codes) index_.resize(n_codes), value_.resize(n_codes);
        n_rows_ = n_rows;
        offsets_[n_rows] = 0;
    }
    std::size_t n_rows() const noexcept { return n_rows_; }
    // Entries of all rows.
    std::size_t size() const noexcept { return offsets_.empty() ? 0 : offsets_[n_rows_]; }
    // i: below n_rows().
    row operator[](std::size_t i) const noexcept {
        return {index_.data() + offsets_[i], value_.data() + offsets_[i], offsets_[i + 1] - offsets_[i]};
    }
    // CSR, as strata.h has it, over this memory: to read the codes, or to change them before decoding.
    strata_codes raw() noexcept { return view(offsets_.data(), index_.data(), value_.data()); }
    // The same to read only, whatever the pointers say.
    strata_codes raw() const noexcept {
        return view(const_cast<std::size_t *>(offsets_.data()), const_cast<std::uint32_t *>(index_.data()),
                    const_cast<float *>(value_.data()));
    }

  private:
    strata_codes view(std::size_t *offsets, std::uint32_t *index, float *value) const noexcept {
        strata_codes out{};
        out.struct_size = sizeof out;
        out.offsets = offsets;
        out.offsets_len = offsets_.size();
        out.index = index;
        out.value = value;
        out.capacity = index_.size();
        out.n = size();
        return out;
    }

    std::size_t n_rows_ = 0;
    std::vector<std::size_t> offsets_;
    std::vector<std::uint32_t> index_;
    std::vector<float> value_;
};

// What computing needs besides a model. One thread at a time; it keeps its model alive.
class ctx {
  public:
    ctx() = default;
#ifndef STRATA_NO_EXCEPTIONS
    explicit ctx(const model &m, std::uint32_t n_threads = 0) { start(m, n_threads); }
#endif

    // Make it another context; what was held is kept if this fails.
    result start(const model &m, std::uint32_t n_threads = 0) {
        strata_error err = detail::no_error();
        strata_ctx_params params;
        strata_ctx_params_init(&params);
        params.n_threads = n_threads;
        strata_ctx *out = nullptr;
        const strata_status status = strata_ctx_new(m.get(), &params, &out, &err);
        if (status == STRATA_STATUS_OK) handle_.reset(out);
        return detail::done(status, err.message);
    }

    // Rows that need more room than the codes have are encoded a second time, into more; so the first call at a number
    // of rows may allocate, and later ones do not unless more latents fire than ever before. Codes are unspecified if it
    // fails.
    result encode(const strata_rows &x, codes &level1, codes &level2) {
        return grow(x.n_rows, first_guess, first_guess, level1, level2,
                    [&](strata_codes *c1, strata_codes *c2) { return strata_encode(get(), &x, c1, c2); });
    }
    // Only the latents of a watch-list.
    result encode(const watch &w, const strata_rows &x, codes &level1, codes &level2) {
        const strata_watch_info most = w.info();
        return grow(x.n_rows, most.max_active1, most.max_active2, level1, level2,
                    [&](strata_codes *c1, strata_codes *c2) { return strata_encode_watched(get(), w.get(), &x, c1, c2); });
    }
    // scores[row * heads + head]. The second form adds them to the running values of the sequence of each row; sequences may
    // be null for sequence 0.
    result score(const probe &p, const strata_rows &x, std::vector<double> &scores) {
        scores.resize(x.n_rows * p.heads());
        return detail::said(strata_probe_score(get(), p.get(), nullptr, &x, nullptr, scores.data(), scores.size()), get());
    }
    result score(const probe &p, probe_state &state, const strata_rows &x, const std::uint32_t *sequences,
                 std::vector<double> &scores) {
        scores.resize(x.n_rows * p.heads());
        // Without a state the scores would be added to nothing.
        if (!state) return detail::done(STRATA_STATUS_NULL, "state: the pointer is NULL");
        return detail::said(strata_probe_score(get(), p.get(), state.get(), &x, sequences, scores.data(), scores.size()), get());
    }
    // Of x_hat.n_rows rows.
    result decode(const codes &level1, const codes &level2, strata_rows_mut x_hat) {
        const strata_codes c1 = level1.raw(), c2 = level2.raw();
        return detail::said(strata_decode(get(), &c1, &c2, &x_hat), get());
    }
    // Of x, from the codes that encode finds, or from others; x_hat may be x.
    result reconstruct(const strata_rows &x, strata_rows_mut x_hat) {
        return detail::said(strata_reconstruct(get(), &x, nullptr, nullptr, &x_hat), get());
    }
    result reconstruct(const strata_rows &x, const codes &level1, const codes &level2, strata_rows_mut x_hat) {
        const strata_codes c1 = level1.raw(), c2 = level2.raw();
        return detail::said(strata_reconstruct(get(), &x, &c1, &c2, &x_hat), get());
    }
    result steer(strata_rows_mut x, const strata_edit *edits, std::size_t n_edits) {
        return detail::said(strata_steer(get(), &x, edits, n_edits), get());
    }
    result steer(strata_rows_mut x, const std::vector<strata_edit> &edits) { return steer(x, edits.data(), edits.size()); }

    // flags: of x.n_rows rows, STRATA_ROW_OVER_LIMIT or 0.
    result row_flags(const strata_rows &x, std::vector<std::uint8_t> &flags) {
        flags.resize(x.n_rows);
        return detail::said(strata_row_flags(get(), &x, flags.data(), flags.size()), get());
    }

    // Add the statistics of another context of the same model.
    result stats_merge(const ctx &from) { return detail::said(strata_stats_merge(get(), from.get()), get()); }
    result stats_update(const strata_rows &x) { return detail::said(strata_stats_update(get(), &x), get()); }
    result stats_read(strata_stats &out) const {
        out = strata_stats{};
        out.struct_size = sizeof out;
        return detail::said(strata_stats_read(get(), &out), get());
    }
#ifndef STRATA_NO_EXCEPTIONS
    strata_stats stats_read() const {
        strata_stats out;
        stats_read(out);
        return out;
    }
#endif

    strata_ctx *get() const noexcept { return handle_.get(); }
    explicit operator bool() const noexcept { return handle_ != nullptr; }

  private:
    // Entries per row, before their number is known.
    static constexpr std::size_t first_guess = 32;

    template <typename Encode>
    result grow(std::size_t n_rows, std::size_t guess1, std::size_t guess2, codes &level1, codes &level2, Encode encode) {
        level1.resize(n_rows, n_rows * guess1);
        level2.resize(n_rows, n_rows * guess2);
        strata_codes c1 = level1.raw(), c2 = level2.raw();
        strata_status status = encode(&c1, &c2);
        if (status == STRATA_STATUS_CAPACITY) {
            level1.resize(n_rows, c1.n);
            level2.resize(n_rows, c2.n);
            c1 = level1.raw(), c2 = level2.raw();
            status = encode(&c1, &c2);
        }
        return detail::said(status, get());
    }
    std::unique_ptr<strata_ctx, detail::free_ctx> handle_;
};

// A dump being written. Call close: without it there is no dump, so what an exception leaves half written is deleted.
class dump {
  public:
    dump() = default;
#ifndef STRATA_NO_EXCEPTIONS
    dump(const std::string &dir, const strata_dump_params &params) { create(dir, params); }
#endif

    // Start another dump; one before it that was not closed is abandoned.
    result create(const std::string &dir, const strata_dump_params &params) {
        strata_error err = detail::no_error();
        strata_dump *out = nullptr;
        const strata_status status = strata_dump_create(dir.c_str(), &params, &out, &err);
        if (status == STRATA_STATUS_OK) handle_.reset(out);
        return detail::done(status, err.message);
    }
    // The texts of the tokens, before the first rows.
    result set_vocab(const std::vector<std::string> &texts) {
        std::vector<const char *> pointers;
        for (const std::string &text : texts) pointers.push_back(text.c_str());
        strata_error err = detail::no_error();
        return detail::done(strata_dump_set_vocab(get(), pointers.data(), pointers.size(), &err), err.message);
    }
    // Tokens that are no text: beginnings, ends, padding.
    result mark_special(const std::vector<std::uint32_t> &ids) {
        strata_error err = detail::no_error();
        return detail::done(strata_dump_mark_special(get(), ids.data(), ids.size(), &err), err.message);
    }
    result append(const strata_rows &x, const std::uint32_t *tokens = nullptr) {
        strata_error err = detail::no_error();
        return detail::done(strata_dump_append(get(), &x, tokens, &err), err.message);
    }
    // The dump appears under its name, whole, or not at all; then the handle is empty. Does nothing on an empty one.
    result close() {
        strata_error err = detail::no_error();
        return detail::done(strata_dump_close(handle_.release(), &err), err.message);
    }
    // Nothing appears, and the handle is empty.
    void abandon() noexcept { handle_.reset(); }

    strata_dump *get() const noexcept { return handle_.get(); }
    explicit operator bool() const noexcept { return handle_ != nullptr; }

  private:
    std::unique_ptr<strata_dump, detail::free_dump> handle_;
};

}  // namespace throwing or returning
}  // namespace strata

#endif  // STRATA_HPP
