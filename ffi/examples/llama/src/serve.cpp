// A server of completions whose tokens come with the latents that are active on them, and a page that shows them.
#include "arguments.hpp"
#include "commands.hpp"
#include "page.hpp"
#include "story.hpp"

#include <httplib.h>
#include <nlohmann/json.hpp>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <mutex>
#include <stdexcept>

using json = nlohmann::json;

namespace {
// A request that asks for what there is not: status 400.
using Wrong = std::invalid_argument;

struct Server {
    const Weights &weights;
    const strata::model &sae;
    const Names &names;
    std::string model, hook;
    std::size_t context, most_latents;
    std::vector<std::uint32_t> parents;
    json labels;
    Teller &teller;
    std::mutex one_at_a_time;
    std::atomic<std::size_t> count{0};
};
}  // namespace

// The member of a request, or the default where it is absent or null.
template <typename T> static T member(const json &body, const char *name, T otherwise) {
    const auto found = body.find(name);
    if (found == body.end() || found->is_null()) return otherwise;
    try {
        return found->get<T>();
    } catch (const json::exception &) {
        throw Wrong(std::string(name) + ": expected another type, found " + found->dump());
    }
}

static double number(const json &body, const char *name, double otherwise, double least, double most) {
    const double value = member(body, name, otherwise);
    if (!(value >= least && value <= most))
        throw Wrong(std::string(name) + ": expected a number from " + std::to_string(least) + " to " + std::to_string(most));
    return value;
}

static std::size_t whole(const json &body, const char *name, std::size_t otherwise, std::size_t least, std::size_t most) {
    const auto value = member(body, name, static_cast<double>(otherwise));
    if (!(value >= static_cast<double>(least) && value <= static_cast<double>(most) && value == static_cast<double>(static_cast<std::size_t>(value))))
        throw Wrong(std::string(name) + ": expected a whole number from " + std::to_string(least) + " to " + std::to_string(most));
    return static_cast<std::size_t>(value);
}

static std::vector<std::string> stops_of(const json &body) {
    const auto found = body.find("stop");
    if (found == body.end() || found->is_null()) return {};
    std::vector<std::string> stops = found->is_string() ? std::vector<std::string>{found->get<std::string>()} : member(body, "stop", std::vector<std::string>());
    for (const std::string &stop : stops)
        if (stop.empty()) throw Wrong("stop: expected texts, found an empty one");
    return stops;
}

// [{"level": 1, "latent": 109, "strength": 4, "mode": "add"}, ...]
static std::vector<strata_edit> edits_of(const Server &server, const json &body) {
    const json given = member(body, "steer", json::array());
    if (!given.is_array()) throw Wrong("steer: expected a list of edits");
    std::vector<strata_edit> edits;
    for (const json &one : given) {
        if (!one.is_object()) throw Wrong("steer: expected edits as {\"level\": 1, \"latent\": 109, \"strength\": 4}");
        const strata_model_info info = server.sae.info();
        strata_edit edit{};
        edit.level = static_cast<std::uint32_t>(whole(one, "level", 1, 1, 2));
        const std::size_t latents = edit.level == 1 ? info.f1 : info.f2;
        if (!one.contains("latent") || latents == 0) throw Wrong("steer: expected a latent of each edit");
        edit.latent = static_cast<std::uint32_t>(whole(one, "latent", 0, 0, latents - 1));
        edit.strength = static_cast<float>(number(one, "strength", 0, -1e6, 1e6));
        const std::string mode = member(one, "mode", std::string("add"));
        if (mode != "add" && mode != "set") throw Wrong("mode: expected add or set, found " + mode);
        edit.mode = mode == "add" ? STRATA_EDIT_ADD : STRATA_EDIT_SET;
        edits.push_back(edit);
    }
    return edits;
}

static Wish wish_of(const Server &server, const std::string &request) {
    const json body = json::parse(request, nullptr, false);
    if (!body.is_object()) throw Wrong("expected a JSON object");
    for (const char *name : {"n", "best_of"})
        if (member(body, name, 1.0) != 1) throw Wrong(std::string(name) + ": expected 1, all that this server does");
    for (const char *name : {"logprobs", "suffix", "echo"})
        if (body.contains(name) && !body[name].is_null() && body[name] != false) throw Wrong(std::string(name) + ": this server does not have it");
    Wish wish;
    if (!body.contains("prompt") || !body["prompt"].is_string()) throw Wrong("prompt: expected a text");
    wish.prompt = body["prompt"].get<std::string>();
    wish.most_tokens = whole(body, "max_tokens", 16, 1, 1u << 20);
    wish.luck.temperature = static_cast<float>(number(body, "temperature", 1, 0, 100));
    wish.luck.seed = static_cast<std::uint32_t>(whole(body, "seed", 1, 0, UINT32_MAX));
    wish.stops = stops_of(body);
    wish.edits = edits_of(server, body);
    wish.most_latents = whole(body, "features", server.most_latents, 0, 1u << 20);
    return wish;
}

// {"id", "text", "parents": [[latent, activation], ...], "children": [[latent, activation, parent or -1], ...]}
static json json_of(const Server &server, const Told &told) {
    json parents = json::array(), children = json::array();
    for (auto [latent, value] : told.latents[0]) parents.push_back({latent, value});
    for (auto [latent, value] : told.latents[1]) {
        const std::uint32_t parent = latent < server.parents.size() ? server.parents[latent] : STRATA_ROOT;
        children.push_back({latent, value, parent == STRATA_ROOT ? json(-1) : json(parent)});
    }
    return {{"id", told.token}, {"text", told.shown}, {"parents", parents}, {"children", children}};
}

static std::string text_of(const json &value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

static json error_of(const std::string &message, const char *type) { return {{"error", {{"message", message}, {"type", type}}}}; }

// The part of an answer that all of its chunks have.
static json answer(Server &server, const std::string &id, std::int64_t created) {
    return {{"id", id}, {"object", "text_completion"}, {"created", created}, {"model", server.model}};
}

static const char *reason(Ending ending) { return ending == Ending::stop ? "stop" : "length"; }

static json usage(const Teller &teller) {
    return {{"prompt_tokens", teller.prompt_tokens()}, {"completion_tokens", teller.new_tokens()}, {"total_tokens", teller.prompt_tokens() + teller.new_tokens()}};
}

static void complete(Server &server, const httplib::Request &request, httplib::Response &response) {
    const Wish wish = wish_of(server, request.body);
    const json body = json::parse(request.body);
    const std::string id = "cmpl-" + std::to_string(server.count++);
    const std::int64_t created = std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
    if (!member(body, "stream", false)) {
        const std::lock_guard<std::mutex> alone(server.one_at_a_time);
        std::string text;
        json prompt = json::array(), tokens = json::array();
        const Ending ending = server.teller.tell(
            wish, [&](const Told &told) { prompt.push_back(json_of(server, told)); },
            [&](const Told &told) { return text += told.text, tokens.push_back(json_of(server, told)), true; });
        json out = answer(server, id, created);
        out["choices"] = json::array({{{"index", 0}, {"text", text}, {"finish_reason", reason(ending)}, {"logprobs", nullptr}, {"strata", {{"prompt", prompt}, {"tokens", tokens}}}}});
        out["usage"] = usage(server.teller);
        return response.set_content(text_of(out), "application/json");
    }
    response.set_header("Cache-Control", "no-store");
    response.set_chunked_content_provider("text/event-stream", [&server, wish, id, created](std::size_t, httplib::DataSink &sink) {
        const std::lock_guard<std::mutex> alone(server.one_at_a_time);
        auto send = [&](const json &event) {
            const std::string line = "data: " + text_of(event) + "\n\n";
            return sink.is_writable() && sink.write(line.data(), line.size());
        };
        auto chunk = [&](const std::string &text, const json &strata, const json &finish) {
            json out = answer(server, id, created);
            out["choices"] = json::array({{{"index", 0}, {"text", text}, {"finish_reason", finish}, {"logprobs", nullptr}, {"strata", strata}}});
            return out;
        };
        try {
            json prompt = json::array();
            bool is_first = true, hears = true;
            auto begin = [&] {
                if (std::exchange(is_first, false)) hears = send(chunk("", {{"prompt", prompt}}, nullptr));
            };
            const Ending ending = server.teller.tell(
                wish, [&](const Told &told) { prompt.push_back(json_of(server, told)); },
                [&](const Told &told) {
                    begin();
                    return hears && send(chunk(told.text, {{"tokens", json::array({json_of(server, told)})}}, nullptr));
                });
            begin();
            if (ending == Ending::gone || !hears) return false;
            json last = chunk("", {{"tokens", json::array()}}, reason(ending));
            last["usage"] = usage(server.teller);
            send(last);
        } catch (const std::exception &e) {
            send(error_of(e.what(), "invalid_request_error"));
        }
        const std::string end = "data: [DONE]\n\n";
        sink.write(end.data(), end.size());
        sink.done();
        return true;
    });
}

// What a page has to know of the model.
static json about(const Server &server) {
    const strata_model_info info = server.sae.info();
    json parents = json::array(), listed = nullptr;
    for (std::uint32_t parent : server.parents) parents.push_back(parent == STRATA_ROOT ? json(-1) : json(parent));
    if (!server.names.empty()) {
        listed = json::array();
        for (const auto &[latent, name] : server.names) listed.push_back({latent.first, latent.second, name});
    }
    return {{"model", server.model}, {"hook", server.hook}, {"latents", {info.f1, info.f2}}, {"parents", parents}, {"listed", listed}, {"labels", server.labels}, {"context", server.context}};
}

// The names that people gave to latents, of RUN/labels.json; none where there is no such file.
static json labels_of(const std::string &run) {
    std::ifstream file(run + "/labels.json");
    if (!file) return json::array();
    const json content = json::parse(file, nullptr, false);
    if (!content.is_object() || !content.contains("labels")) throw std::runtime_error(run + "/labels.json: expected the labels of a report");
    return content["labels"];
}

static httplib::Server *running = nullptr;

bool serve(const Words &words) {
    const Arguments arguments(words, {"--host", "--port", "--list", "--most", "--context", "--threads"});
    if (arguments.size() != 3) return false;
    const Weights weights(arguments.word(0));
    if (!weights.generates()) throw std::runtime_error(arguments.word(0) + ": expected a model that generates text, found one that embeds");
    const int block = block_of(arguments.word(1), weights);
    const std::string &run = arguments.word(2), &gguf = arguments.word(0);
    const strata::model sae = sae_of(run, weights);
    Names names;
    std::optional<strata::watch> listed;
    if (arguments.has("--list")) {
        names = read_list(arguments.text("--list", ""));
        listed = watch_of(sae, names);
    }
    const Setup setup{weights.context(arguments.number("--context", 0)), arguments.number("--threads", 1)};
    Teller teller(weights, block, sae, listed ? &*listed : nullptr, setup);
    std::vector<std::uint32_t> parents;
    sae.parents(parents);
    // The name alone: a path of this machine says nothing on another.
    Server server{weights, sae, names, gguf.substr(gguf.find_last_of("/\\") + 1), "blocks." + std::to_string(block) + ".hook_resid_post",
                  setup.context, arguments.number("--most", 16), parents, labels_of(run), teller, {}, {}};

    httplib::Server http;
    auto answers = [&](auto handler) {
        return [&server, handler](const httplib::Request &request, httplib::Response &response) {
            try {
                handler(server, request, response);
            } catch (const std::exception &e) {
                // Only edits make Strata refuse anything here.
                const bool wrong = dynamic_cast<const Wrong *>(&e) || dynamic_cast<const strata::error *>(&e);
                response.status = wrong ? 400 : 500;
                response.set_content(text_of(error_of(e.what(), wrong ? "invalid_request_error" : "server_error")), "application/json");
            }
        };
    };
    http.Get("/", [](const httplib::Request &, httplib::Response &response) { response.set_content(PAGE, "text/html; charset=utf-8"); });
    http.Get("/v1/models", answers([](Server &s, const httplib::Request &, httplib::Response &response) {
        response.set_content(text_of({{"object", "list"}, {"data", json::array({{{"id", s.model}, {"object", "model"}, {"owned_by", "strata-llama"}}})}}), "application/json");
    }));
    http.Get("/v1/strata", answers([](Server &s, const httplib::Request &, httplib::Response &response) { response.set_content(text_of(about(s)), "application/json"); }));
    http.Post("/v1/completions", answers(complete));
    http.set_payload_max_length(16u << 20);

    const std::string host = arguments.text("--host", "127.0.0.1");
    const std::size_t asked = arguments.number("--port", 8080);
    const int port = asked == 0 ? http.bind_to_any_port(host) : asked < 65536 && http.bind_to_port(host, static_cast<int>(asked)) ? static_cast<int>(asked) : -1;
    if (port < 0) throw std::runtime_error(host + ":" + std::to_string(asked) + ": cannot listen there: choose another --port");
    std::printf("http://%s:%d/ shows what it writes; POST /v1/completions\n", host.c_str(), port);
    std::fflush(stdout);
    running = &http;
    std::signal(SIGINT, [](int) { running->stop(); });
    std::signal(SIGTERM, [](int) { running->stop(); });
    http.listen_after_bind();
    return true;
}
