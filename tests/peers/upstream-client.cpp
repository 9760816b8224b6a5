// upstream-client: evaluates tokens with upstream's libllama, in process or over upstream's RPC client
// library, and prints what it got as JSON. The interop tests compare its token ids and logits, the
// benchmark its times. libggml-rpc.so must lie beside the executable; ggml loads it from there.
// Compiles against every release of releases.ts: where their APIs differ, the protocol version tells.

#include "ggml-backend.h"
#include "ggml-rpc.h"
#include "llama.h"

#include <algorithm>
#include <chrono>
#include <cinttypes>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

const char * const usage =
    "upstream-client -m MODEL [options]\n"
    "  --rpc HOST:PORT[,...]    servers whose devices run the model; none: the local CPU\n"
    "  -p TEXT | --tokens IDS   the prompt, as text or as comma separated token ids\n"
    "  -n N                     tokens to generate greedily after the prompt (default 0)\n"
    "  -ngl N                   layers on the servers (default -1: all)\n"
    "  -ts A,B,...              proportions of the layers per device\n"
    "  -t N, -c N, -b N, -ub N  threads (2), context (model's), batch (2048), micro batch (512)\n"
    "  --repeat N               runs in the same context (default 1); the memory is cleared between\n"
    "  --logits FILE            float32 logits of every prompt token, row by row\n"
    "  --encode                 llama_encode before llama_decode, as upstream does for diffusion models\n"
    "  --no-mmap, --no-repack   as in llama.cpp: read the file; keep the weights in their own layout\n"
    "  --no-warmup              skip the one untimed token before the runs\n"
    "  --turns                  before each run, say 'turn' on stderr and wait for a line on stdin\n"
    "  -v                       llama.cpp's log on stderr\n";

struct options {
    std::string              model;
    std::vector<std::string> endpoints;
    bool                     has_text = false;
    std::string              text;
    std::vector<llama_token> tokens;
    int                      n_predict   = 0;
    int                      n_gpu_layers = -1;
    std::vector<float>       tensor_split;
    int                      n_threads = 2;
    uint32_t                 n_ctx     = 0;
    uint32_t                 n_batch   = 2048;
    uint32_t                 n_ubatch  = 512;
    int                      n_repeat  = 1;
    std::string              logits_path;
    bool                     encode  = false;
    bool                     mmap    = true;
    bool                     repack  = true;
    bool                     warmup  = true;
    bool                     turns   = false;
    bool                     verbose = false;
};

struct run_result {
    std::vector<llama_token> tokens;
    double                   prompt_ms = 0;
    std::vector<double>      token_ms;
};

double now_ms() {
    using namespace std::chrono;
    return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

// Wall clock, to compare with another process's.
double epoch_ms() {
    using namespace std::chrono;
    return duration<double, std::milli>(system_clock::now().time_since_epoch()).count();
}

std::vector<std::string> split(const std::string & list) {
    std::vector<std::string> parts;
    std::istringstream stream(list);
    for (std::string part; std::getline(stream, part, ',');) {
        parts.push_back(part);
    }
    return parts;
}

options parse(int argc, char ** argv) {
    options o;
    const std::map<std::string, std::function<void(const std::string &)>> with_value = {
        { "-m",       [&](const std::string & v) { o.model = v; } },
        { "--rpc",    [&](const std::string & v) { o.endpoints = split(v); } },
        { "-p",       [&](const std::string & v) { o.has_text = true; o.text = v; } },
        { "--tokens", [&](const std::string & v) { for (const auto & id : split(v)) o.tokens.push_back(std::stoi(id)); } },
        { "-n",       [&](const std::string & v) { o.n_predict = std::stoi(v); } },
        { "-ngl",     [&](const std::string & v) { o.n_gpu_layers = std::stoi(v); } },
        { "-ts",      [&](const std::string & v) { for (const auto & part : split(v)) o.tensor_split.push_back(std::stof(part)); } },
        { "-t",       [&](const std::string & v) { o.n_threads = std::stoi(v); } },
        { "-c",       [&](const std::string & v) { o.n_ctx = std::stoul(v); } },
        { "-b",       [&](const std::string & v) { o.n_batch = std::stoul(v); } },
        { "-ub",      [&](const std::string & v) { o.n_ubatch = std::stoul(v); } },
        { "--repeat", [&](const std::string & v) { o.n_repeat = std::stoi(v); } },
        { "--logits", [&](const std::string & v) { o.logits_path = v; } },
    };
    const std::map<std::string, std::function<void()>> alone = {
        { "--encode",    [&] { o.encode = true; } },
        { "--no-mmap",   [&] { o.mmap = false; } },
        { "--no-repack", [&] { o.repack = false; } },
        { "--no-warmup", [&] { o.warmup = false; } },
        { "--turns",     [&] { o.turns = true; } },
        { "-v",          [&] { o.verbose = true; } },
    };
    for (int i = 1; i < argc; i++) {
        const std::string name = argv[i];
        if (const auto flag = alone.find(name); flag != alone.end()) {
            flag->second();
        } else if (const auto option = with_value.find(name); option != with_value.end() && i + 1 < argc) {
            option->second(argv[++i]);
        } else {
            throw std::invalid_argument("unknown or incomplete option " + name);
        }
    }
    if (o.model.empty()) {
        throw std::invalid_argument("-m is missing");
    }
    return o;
}

#if RPC_PROTO_MAJOR_VERSION < 3
// A server has one device.
void add_devices(ggml_backend_reg_t rpc, const std::string & endpoint, std::vector<ggml_backend_dev_t> & devices) {
    auto add_device = reinterpret_cast<decltype(&ggml_backend_rpc_add_device)>(
        ggml_backend_reg_get_proc_address(rpc, "ggml_backend_rpc_add_device"));
    ggml_backend_dev_t device = add_device(endpoint.c_str());
    if (device == nullptr) {
        throw std::runtime_error(endpoint + " offers no device");
    }
    ggml_backend_device_register(device);
    devices.push_back(device);
}
#else
void add_devices(ggml_backend_reg_t rpc, const std::string & endpoint, std::vector<ggml_backend_dev_t> & devices) {
    auto add_server = reinterpret_cast<decltype(&ggml_backend_rpc_add_server)>(
        ggml_backend_reg_get_proc_address(rpc, "ggml_backend_rpc_add_server"));
    ggml_backend_reg_t server = add_server(endpoint.c_str());
    if (server == nullptr) {
        throw std::runtime_error(endpoint + " offers no device");
    }
    ggml_backend_register(server);
    for (size_t i = 0; i < ggml_backend_reg_dev_count(server); i++) {
        devices.push_back(ggml_backend_reg_dev_get(server, i));
    }
}
#endif

// Devices of all servers in the order given, ended by the null that llama_model_params wants.
std::vector<ggml_backend_dev_t> remote_devices(const std::vector<std::string> & endpoints) {
    std::vector<ggml_backend_dev_t> devices;
    if (!endpoints.empty()) {
        ggml_backend_reg_t rpc = ggml_backend_reg_by_name("RPC");
        if (rpc == nullptr) {
            throw std::runtime_error("libggml-rpc.so is not beside the executable");
        }
        for (const auto & endpoint : endpoints) {
            add_devices(rpc, endpoint, devices);
        }
    }
    devices.push_back(nullptr);
    return devices;
}

void set_mmap(llama_model_params & params, bool mmap) {
#if RPC_PROTO_MAJOR_VERSION < 5
    params.use_mmap = mmap;
#else
    params.load_mode = mmap ? LLAMA_LOAD_MODE_MMAP : LLAMA_LOAD_MODE_NONE;
#endif
}

llama_model * load_model(const options & o, std::vector<ggml_backend_dev_t> & devices) {
    std::vector<float> tensor_split = o.tensor_split;
    tensor_split.resize(llama_max_devices(), 0.0f);
    llama_model_params params = llama_model_default_params();
    params.devices         = devices.data();
    params.use_extra_bufts = o.repack;
    set_mmap(params, o.mmap);
    // The default is all of them, for which the releases have different numbers.
    if (o.n_gpu_layers >= 0) {
        params.n_gpu_layers = o.n_gpu_layers;
    }
    if (!o.tensor_split.empty()) {
        params.tensor_split = tensor_split.data();
    }
    params.progress_callback = [](float, void *) { return true; };
    llama_model * model = llama_model_load_from_file(o.model.c_str(), params);
    if (model == nullptr) {
        throw std::runtime_error("cannot load " + o.model);
    }
    return model;
}

llama_context * make_context(const options & o, llama_model * model) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx           = o.n_ctx;
    params.n_batch         = o.n_batch;
    params.n_ubatch        = o.n_ubatch;
    params.n_threads       = o.n_threads;
    params.n_threads_batch = o.n_threads;
    llama_context * ctx = llama_init_from_model(model, params);
    if (ctx == nullptr) {
        throw std::runtime_error("cannot create a context");
    }
    return ctx;
}

std::vector<llama_token> prompt_tokens(const options & o, const llama_model * model) {
    if (!o.has_text) {
        return o.tokens;
    }
    const llama_vocab * vocab = llama_model_get_vocab(model);
    const int32_t size = static_cast<int32_t>(o.text.size());
    std::vector<llama_token> tokens(o.text.size() + 8);
    const int32_t count = llama_tokenize(vocab, o.text.data(), size, tokens.data(), tokens.size(), true, true);
    if (count < 0) {
        throw std::runtime_error("cannot tokenize the prompt");
    }
    tokens.resize(count);
    return tokens;
}

// Evaluates `count` tokens from `position` on; `all_logits` asks for every token's, else the last's.
void evaluate(llama_context * ctx, const llama_token * tokens, int32_t count, llama_pos position, bool all_logits, bool encode) {
    llama_batch batch = llama_batch_init(count, 0, 1);
    batch.n_tokens = count;
    for (int32_t i = 0; i < count; i++) {
        batch.token[i]     = tokens[i];
        batch.pos[i]       = position + i;
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i]    = all_logits || i == count - 1;
    }
    int32_t status = encode ? llama_encode(ctx, batch) : 0;
    if (status == 0) {
        status = llama_decode(ctx, batch);
    }
    llama_batch_free(batch);
    if (status != 0) {
        throw std::runtime_error("evaluation failed with status " + std::to_string(status));
    }
}

llama_token best_token(llama_context * ctx, int32_t n_vocab) {
    const float * logits = llama_get_logits_ith(ctx, -1);
    llama_token best = 0;
    for (int32_t i = 1; i < n_vocab; i++) {
        if (logits[i] > logits[best]) {
            best = i;
        }
    }
    return best;
}

void append_logits(std::ofstream & file, llama_context * ctx, int32_t count, int32_t n_vocab) {
    for (int32_t i = 0; i < count; i++) {
        file.write(reinterpret_cast<const char *>(llama_get_logits_ith(ctx, i)), n_vocab * sizeof(float));
    }
}

void forget(llama_context * ctx) {
    // A diffusion model has no memory.
    if (llama_memory_t memory = llama_get_memory(ctx); memory != nullptr) {
        llama_memory_clear(memory, true);
    }
}

run_result run(const options & o, llama_context * ctx, const std::vector<llama_token> & prompt, int32_t n_vocab, std::ofstream * logits) {
    run_result result;
    const int32_t n_prompt = static_cast<int32_t>(prompt.size());
    double start = now_ms();
    for (int32_t i = 0; i < n_prompt; i += o.n_batch) {
        const int32_t count = std::min<int32_t>(o.n_batch, n_prompt - i);
        evaluate(ctx, prompt.data() + i, count, i, logits != nullptr, o.encode);
        if (logits != nullptr) {
            append_logits(*logits, ctx, count, n_vocab);
        }
    }
    llama_synchronize(ctx);
    result.prompt_ms = now_ms() - start;
    for (int32_t i = 0; i < o.n_predict; i++) {
        start = now_ms();
        const llama_token token = best_token(ctx, n_vocab);
        result.tokens.push_back(token);
        // The last token needs no evaluation, as nothing is generated after it.
        if (i + 1 < o.n_predict) {
            evaluate(ctx, &token, 1, n_prompt + i, false, false);
            llama_synchronize(ctx);
            result.token_ms.push_back(now_ms() - start);
        }
    }
    return result;
}

void warm_up(llama_context * ctx, llama_token token, bool encode) {
    evaluate(ctx, &token, 1, 0, false, encode);
    llama_synchronize(ctx);
    forget(ctx);
}

std::string json_string(const std::string & text) {
    std::string out = "\"";
    for (const unsigned char c : text) {
        char escaped[8];
        if (c == '"' || c == '\\' || c < 0x20) {
            std::snprintf(escaped, sizeof(escaped), "\\u%04x", c);
            out += escaped;
        } else {
            out += static_cast<char>(c);
        }
    }
    return out + "\"";
}

template <typename T, typename Format> std::string json_list(const std::vector<T> & values, Format format) {
    std::string out = "[";
    for (const T & value : values) {
        out += (out.size() > 1 ? "," : "") + format(value);
    }
    return out + "]";
}

std::string json_ms(double ms) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.3f", ms);
    return text;
}

std::string json_tokens(const std::vector<llama_token> & tokens) {
    return json_list(tokens, [](llama_token token) { return std::to_string(token); });
}

std::string json_device(ggml_backend_dev_t device) {
    size_t free_bytes  = 0;
    size_t total_bytes = 0;
    ggml_backend_dev_memory(device, &free_bytes, &total_bytes);
    return "{\"name\":" + json_string(ggml_backend_dev_name(device)) +
           ",\"description\":" + json_string(ggml_backend_dev_description(device)) +
           ",\"freeBytes\":" + std::to_string(free_bytes) + ",\"totalBytes\":" + std::to_string(total_bytes) + "}";
}

bool is_hybrid(const llama_model * model) {
#if RPC_PROTO_MAJOR_VERSION < 3
    (void) model; // llama.h cannot tell.
    return false;
#else
    return llama_model_is_hybrid(model);
#endif
}

std::string json_model(const llama_model * model, int32_t n_vocab) {
    const auto flag = [](bool value) { return std::string(value ? "true" : "false"); };
    return "{\"layerCount\":" + std::to_string(llama_model_n_layer(model)) +
           ",\"embeddingLength\":" + std::to_string(llama_model_n_embd(model)) +
           ",\"vocabSize\":" + std::to_string(n_vocab) +
           ",\"vocabType\":" + std::to_string(llama_vocab_type(llama_model_get_vocab(model))) +
           ",\"sizeBytes\":" + std::to_string(llama_model_size(model)) +
           ",\"hasEncoder\":" + flag(llama_model_has_encoder(model)) +
           ",\"hasDecoder\":" + flag(llama_model_has_decoder(model)) +
           ",\"recurrent\":" + flag(llama_model_is_recurrent(model)) +
           ",\"hybrid\":" + flag(is_hybrid(model)) +
           ",\"diffusion\":" + flag(llama_model_is_diffusion(model)) + "}";
}

std::string json_run(const run_result & result) {
    return "{\"tokens\":" + json_tokens(result.tokens) + ",\"promptMs\":" + json_ms(result.prompt_ms) +
           ",\"tokenMs\":" + json_list(result.token_ms, json_ms) + "}";
}

int run_all(const options & o) {
    if (!o.verbose) {
        llama_log_set([](ggml_log_level level, const char * text, void *) {
            if (level == GGML_LOG_LEVEL_ERROR) {
                std::fputs(text, stderr);
            }
        }, nullptr);
    }
    ggml_backend_load_all();
    llama_backend_init();

    const double start = now_ms();
    std::vector<ggml_backend_dev_t> devices = remote_devices(o.endpoints);
    llama_model * model = load_model(o, devices);
    const double load_ms = now_ms() - start;
    llama_context * ctx = make_context(o, model);
    const double context_ms = now_ms() - start - load_ms;
    const double ready_epoch_ms = epoch_ms();

    const std::vector<llama_token> prompt = prompt_tokens(o, model);
    if (prompt.empty()) {
        throw std::invalid_argument("the prompt is empty: give -p or --tokens");
    }
    const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    std::ofstream logits;
    if (!o.logits_path.empty()) {
        logits.open(o.logits_path, std::ios::binary);
    }
    if (o.warmup) {
        warm_up(ctx, prompt[0], o.encode);
    }
    std::vector<run_result> results;
    for (int i = 0; i < o.n_repeat; i++) {
        if (o.turns) {
            std::fputs("turn\n", stderr);
            std::string line;
            std::getline(std::cin, line);
        }
        forget(ctx);
        results.push_back(run(o, ctx, prompt, n_vocab, i == 0 && logits.is_open() ? &logits : nullptr));
    }

    devices.pop_back();
    std::printf("{\"devices\":%s,\"model\":%s,\"loadMs\":%s,\"contextMs\":%s,\"readyEpochMs\":%s,\"prompt\":%s,\"runs\":%s}\n",
                json_list(devices, json_device).c_str(), json_model(model, n_vocab).c_str(), json_ms(load_ms).c_str(),
                json_ms(context_ms).c_str(), json_ms(ready_epoch_ms).c_str(), json_tokens(prompt).c_str(),
                json_list(results, json_run).c_str());
    llama_free(ctx);
    llama_model_free(model);
    if (logits.is_open() && !logits.flush()) {
        throw std::runtime_error("cannot write " + o.logits_path);
    }
    return 0;
}

} // namespace

int main(int argc, char ** argv) {
    std::setlocale(LC_NUMERIC, "C");
    try {
        return run_all(parse(argc, argv));
    } catch (const std::invalid_argument & error) {
        std::fprintf(stderr, "upstream-client: %s\n%s", error.what(), usage);
        return 2;
    } catch (const std::exception & error) {
        std::fprintf(stderr, "upstream-client: %s\n", error.what());
        return 1;
    }
}
