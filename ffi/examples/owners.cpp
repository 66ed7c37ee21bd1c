// Every function of strata.hpp, in the style that it is compiled in: exceptions, or with STRATA_NO_EXCEPTIONS statuses.
// usage: owners RUN DUMP HEADS        prints "owners ok"; DUMP is written
#include <strata.hpp>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <vector>

static void expect(bool is_so, const char *what) {
    if (is_so) return;
    std::fprintf(stderr, "owners: not so: %s\n", what);
    std::exit(1);
}

// The status of a call, in both styles.
#ifdef STRATA_NO_EXCEPTIONS
template <typename Call> static strata_status status_of(Call call, std::string *message = nullptr) {
    const strata::result result = call();
    if (message) *message = result.message;
    return result.status;
}
#else
template <typename Call> static strata_status status_of(Call call, std::string *message = nullptr) {
    try {
        call();
    } catch (const strata::error &e) {
        if (message) *message = e.what();
        return e.status();
    }
    return STRATA_STATUS_OK;
}
#endif
#define STATUS(...) status_of([&] { return __VA_ARGS__; })
#define OK(...) expect(STATUS(__VA_ARGS__) == STRATA_STATUS_OK, #__VA_ARGS__)

static_assert(!std::is_copy_constructible<strata::model>::value && std::is_nothrow_move_constructible<strata::model>::value, "");
static_assert(!std::is_copy_constructible<strata::ctx>::value && std::is_nothrow_move_assignable<strata::ctx>::value, "");
static_assert(!std::is_copy_constructible<strata::dump>::value && std::is_nothrow_move_assignable<strata::dump>::value, "");

static void errors_have_words(strata::model &model) {
    std::string message;
    const strata_status status = status_of([&] { return model.load("/nowhere"); }, &message);
    expect(status == STRATA_STATUS_IO && message.find("/nowhere") != std::string::npos, "a missing file is named");
    expect(bool(model), "a failed load keeps the model");
    expect(STATUS(model.load("{", 1, "", 0)) == STRATA_STATUS_FORMAT, "bytes that are no model");
    strata::ctx empty;
    strata::codes codes;
    const float x = 0;
    expect(status_of([&] { return empty.encode(strata::rows(&x, 1, 1), codes, codes); }, &message) == STRATA_STATUS_NULL &&
               message == "ctx: the pointer is NULL",
           "an empty context");
    expect(strata::model().info().d == 0, "an empty model has no sizes");
}

static void rows_come_back(strata::ctx &ctx, const strata_model_info &info) {
    // More latents than the first guess may fire, in rows apart from each other.
    const std::size_t n = 37, stride = info.d + 3;
    std::vector<float> x(n * stride), x_hat(n * info.d), direct(info.d), changed;
    for (std::size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(i % 17) - 5.0f;
    strata::codes c1, c2;
    std::string message;
    expect(status_of([&] { return ctx.encode(strata::rows(x.data(), n, info.d - 1), c1, c2); }, &message) == STRATA_STATUS_SHAPE &&
               message == "x: d: expected 6, found 5",
           "a context says what was wrong");
    OK(ctx.encode(strata::rows(x.data(), n, info.d, stride * sizeof(float)), c1, c2));
    expect(c1.n_rows() == n && c1.size() > n && c2.size() > 0, "latents fire");
    std::size_t counted = 0;
    for (std::size_t i = 0; i < n; i++)
        for (auto [latent, value] : c1[i]) counted += latent < info.f1 && value > 0;
    expect(counted == c1.size(), "the rows have all entries");
    const strata::codes &read1 = c1, &read2 = c2;
    OK(ctx.decode(read1, read2, strata::rows_mut(x_hat.data(), n, info.d)));

    // One row alone gives what it gave among others.
    OK(ctx.encode(strata::rows(x.data() + 5 * stride, 1, info.d), c1, c2));
    OK(ctx.decode(c1, c2, strata::rows_mut(direct.data(), 1, info.d)));
    expect(!std::memcmp(direct.data(), x_hat.data() + 5 * info.d, info.d * sizeof(float)), "a row does not depend on others");

    std::vector<float> again(direct.size());
    const strata_rows sixth = strata::rows(x.data() + 5 * stride, 1, info.d);
    OK(ctx.reconstruct(sixth, strata::rows_mut(again.data(), 1, info.d_out)));
    expect(again == direct, "reconstructing is encoding and decoding");
    OK(ctx.reconstruct(sixth, c1, c2, strata::rows_mut(again.data(), 1, info.d_out)));
    expect(again == direct, "the same from codes");

    changed.assign(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(info.d));
    OK(ctx.steer(strata::rows_mut(changed.data(), 1, info.d), {{1, 3, 2.5f, STRATA_EDIT_ADD}}));
    expect(STATUS(ctx.steer(strata::rows_mut(changed.data(), 1, info.d), {{3, 0, 1.0f, STRATA_EDIT_ADD}})) == STRATA_STATUS_INDEX,
           "there is no level 3");
    expect(std::memcmp(changed.data(), x.data(), info.d * sizeof(float)) != 0, "steering changes the row");

    OK(ctx.stats_update(strata::rows(x.data(), n, info.d, stride * sizeof(float))));
    strata_stats stats;
    OK(ctx.stats_read(stats));
    expect(stats.rows == n && stats.l0_1 > 0, "the statistics have the rows");
}

static void the_tree_is_there(const strata::model &model) {
    const strata_model_info info = model.info();
    std::uint32_t parent = 0;
    for (std::uint32_t j = 0; j < info.f2; j++) {
        OK(model.parent(j, parent));
        expect(parent == STRATA_ROOT || parent < info.f1, "a parent is a latent of level 1");
    }
    expect(STATUS(model.parent(static_cast<std::uint32_t>(info.f2), parent)) == STRATA_STATUS_INDEX, "no such child");
    std::vector<std::uint32_t> parents;
    OK(model.parents(parents));
    OK(model.parent(static_cast<std::uint32_t>(info.f2) - 1, parent));
    expect(parents.size() == info.f2 && parents.back() == parent, "all parents in one call");
    strata_model_metadata from;
    OK(model.metadata(from));
    expect(from.hook && !from.hook[0] && from.layer == STRATA_NO_LAYER, "nothing is known of the origin");
    std::vector<float> row(info.d);
    OK(model.decoder_row(1, 0, row.data(), row.size()));
    expect(STATUS(model.decoder_row(1, 0, row.data(), row.size() - 1)) == STRATA_STATUS_CAPACITY, "too small a row");
    float norm = 0;
    for (float v : row) norm += v * v;
    expect(norm > 0, "a decoder row points somewhere");
}

static void few_latents_are_watched(strata::ctx &ctx, const strata::model &model) {
    const strata_model_info info = model.info();
    strata::watch watch;
    OK(watch.set(model, {3, 0}, {static_cast<std::uint32_t>(info.f2) - 1, 4}));
    expect(STATUS(watch.set(model, {3, 3}, {})) == STRATA_STATUS_PARAMS && watch, "a failed list keeps the watch-list");
    expect(watch.info().max_active1 == 2 && watch.info().computed1 >= 2, "a watch-list says what it computes");
    const std::size_t n = 37;
    std::vector<float> x(n * info.d);
    for (std::size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(i % 17) - 5.0f;
    const strata_rows rows = strata::rows(x.data(), n, info.d);
    strata::codes c1, c2, w1, w2;
    OK(ctx.encode(rows, c1, c2));
    OK(ctx.encode(watch, rows, w1, w2));
    std::size_t found = 0;
    for (std::size_t i = 0; i < n; i++) {
        auto at = w1[i].begin();
        for (auto [latent, value] : c1[i]) {
            if (latent != 0 && latent != 3) continue;
            expect(at != w1[i].end() && (*at).latent == latent && (*at).value == value, "the listed codes are those of encode");
            ++at, found++;
        }
        expect(at == w1[i].end(), "no others");
    }
    expect(found > 0 && found == w1.size(), "listed latents fire");
    expect(STATUS(ctx.encode(strata::watch(), rows, w1, w2)) == STRATA_STATUS_NULL, "an empty watch-list");
}

static void heads_are_scored(strata::ctx &ctx, const strata::model &model, const char *file) {
    const std::size_t d = model.info().d;
    strata::probe probe;
    strata::probe_state state;
    OK(probe.load(file, model));
    expect(STATUS(probe.load("/nowhere", model)) == STRATA_STATUS_IO && probe, "a failed load keeps the probe");
    strata_head_info head;
    OK(probe.head(0, head));
    expect(head.name[0] && STATUS(probe.head(probe.heads(), head)) == STRATA_STATUS_INDEX, "heads have names");
    const std::vector<float> x(2 * d, 1.0f);
    const strata_rows rows = strata::rows(x.data(), 2, d);
    const std::uint32_t sequences[2] = {1, 0};
    std::vector<double> scores, again;
    OK(ctx.score(probe, rows, scores));
    expect(STATUS(ctx.score(probe, state, rows, sequences, again)) == STRATA_STATUS_NULL, "an empty state");
    expect(STATUS(state.start(probe, 2, {1.0})) == (probe.heads() == 1 ? STRATA_STATUS_OK : STRATA_STATUS_SHAPE), "thresholds");
    OK(state.start(probe, 2));
    OK(ctx.score(probe, state, rows, sequences, again));
    expect(scores == again && scores.size() == 2 * probe.heads(), "a state does not change scores");
    strata_probe_reading reading;
    OK(state.read(1, 0, reading));
    expect(reading.rows == 1 && reading.last == scores[0], "the first row is of the second sequence");
    std::vector<std::uint8_t> alarms;
    OK(state.alarms(alarms));
    expect(alarms.size() == scores.size() && alarms[0] == (scores[0] > 0), "an alarm where the score is above 0");
    OK(state.reset(1));
    OK(state.read(1, 0, reading));
    expect(reading.rows == 0, "a sequence is forgotten");
}

static void contexts_add_up(const strata::model &model) {
    strata::ctx a, b;
    OK(a.start(model));
    OK(b.start(model));
    const std::vector<float> x(64 * model.info().d, 1.0f);
    const strata_rows rows = strata::rows(x.data(), 64, model.info().d);
    OK(a.stats_update(rows));
    OK(b.stats_update(rows));
    OK(a.stats_merge(b));
    strata_stats stats;
    OK(a.stats_read(stats));
    expect(stats.rows == 128, "the rows of both");
    expect(STATUS(a.stats_merge(a)) == STRATA_STATUS_PARAMS, "a context and itself");
}

static void a_dump_is_written(const char *dir, std::size_t d) {
    strata_dump_params params;
    strata_dump_params_init(&params);
    params.d = d;
    strata::dump dump;
    OK(dump.create(dir, params));
    dump.abandon();
    expect(!dump && STATUS(dump.append(strata::rows(nullptr, 0, d))) == STRATA_STATUS_NULL, "an abandoned dump is gone");
    OK(dump.create(dir, params));
    OK(dump.set_vocab({"a", "b", "c", "d", "e", "f", "g", "h", "", "\xc3"}));
    OK(dump.mark_special({8, 9}));
    std::vector<float> x(3 * d, 0.5f);
    const std::uint32_t tokens[3] = {7, 8, 9};
    OK(dump.append(strata::rows(x.data(), 3, d), tokens));
    expect(STATUS(dump.append(strata::rows(x.data(), 3, d))) == STRATA_STATUS_PARAMS, "tokens for all rows or for none");
    const std::uint32_t unknown[3] = {7, 8, 10};
    expect(STATUS(dump.append(strata::rows(x.data(), 3, d), unknown)) == STRATA_STATUS_INDEX, "tokens of the vocabulary");
    strata::dump moved = std::move(dump);
    expect(!dump && moved, "a dump moves");
    OK(moved.close());
    OK(moved.close());
    expect(STATUS(moved.create(dir, params)) == STRATA_STATUS_IO, "a dump is not written over");
}

int main(int argc, char **argv) {
    if (argc != 4) return std::fputs("usage: owners RUN DUMP HEADS\n", stderr), 2;
    strata::ctx ctx;
    strata_model_info info;
    {
        strata::model loaded;
        OK(loaded.load(argv[1]));
        strata::model model = std::move(loaded);
        expect(!loaded && model, "a model moves");
        errors_have_words(model);
        the_tree_is_there(model);
        OK(ctx.start(model, 2));
        info = model.info();
        few_latents_are_watched(ctx, model);
        heads_are_scored(ctx, model, argv[3]);
        contexts_add_up(model);
    }
    rows_come_back(ctx, info);
    a_dump_is_written(argv[2], info.d);
    std::puts("owners ok");
}
