// minimal.c in C++17, through strata.hpp: loads a model, encodes the rows of a file of floats, prints the first rows.
// usage: minimal RUN [ROWS.f32]        without a file: one row of ones
// c++ -std=c++17 -Iinclude examples/minimal.cpp -lstrata -o minimal
#include <strata.hpp>

#include <cstdio>
#include <exception>
#include <fstream>
#include <vector>

static std::vector<float> read_floats(const char *path, std::size_t most) {
    std::vector<float> data(most);
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(std::string(path) + ": cannot be read");
    file.read(reinterpret_cast<char *>(data.data()), static_cast<std::streamsize>(most * sizeof(float)));
    data.resize(static_cast<std::size_t>(file.gcount()) / sizeof(float));
    return data;
}

static void print(const char *name, const strata::codes &codes, std::size_t row) {
    std::printf("row %zu %s:", row, name);
    for (auto [latent, value] : codes[row]) std::printf(" %u=%g", latent, static_cast<double>(value));
    std::printf("\n");
}

static void run(const char *path, const char *rows_path) {
    strata::ctx ctx;
    strata_model_info info;
    {
        strata::model model(path);
        info = model.info();
        ctx = strata::ctx(model);  // which keeps the model
    }
    const std::vector<float> data = rows_path ? read_floats(rows_path, 256 * info.d) : std::vector<float>(info.d, 1.0f);
    const std::size_t n = data.size() / info.d;

    strata::codes level1, level2;
    ctx.encode(strata::rows(data.data(), n, info.d), level1, level2);
    std::printf("d %zu, latents %zu and %zu; %zu rows, %zu and %zu codes\n", info.d, info.f1, info.f2, n, level1.size(),
                level2.size());
    for (std::size_t row = 0; row < n && row < 3; row++) {
        print("level 1", level1, row);
        print("level 2", level2, row);
    }
}

int main(int argc, char **argv) {
    if (argc < 2) return std::fputs("usage: minimal RUN [ROWS.f32]\n", stderr), 2;
    if (strata_abi_version() != STRATA_ABI_VERSION) return std::fputs("another strata than this was compiled for\n", stderr), 2;
    try {
        run(argv[1], argc > 2 ? argv[2] : nullptr);
    } catch (const std::exception &e) {
        return std::fprintf(stderr, "%s\n", e.what()), 1;
    }
}
