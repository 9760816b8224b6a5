// What ggml says: its log, kept and shown, and its last words before it aborts. ggml logs from threads of its own.

#include "api.h"
#include "ggml.h"

#include <cstdio>
#include <cstring>
#include <mutex>
#include <string>
#include <unistd.h>

namespace {

constexpr size_t kLogCapacity   = 64 * 1024;
constexpr size_t kErrorCapacity = 512;

std::mutex  g_log_mutex;
std::string g_log;
std::string g_errors; // the last of them, taken or not
int         g_log_echo_level = GGML_LOG_LEVEL_NONE;
int         g_log_last_level = GGML_LOG_LEVEL_NONE;

void append(std::string & log, const char * text, size_t capacity) {
    log.append(text);
    if (log.size() > capacity) {
        log.erase(0, log.size() - capacity);
    }
}

void on_log(ggml_log_level level, const char * text, void *) {
    std::lock_guard<std::mutex> lock(g_log_mutex);
    const int effective = level == GGML_LOG_LEVEL_CONT ? g_log_last_level : int(level);
    g_log_last_level = effective;
    // ggml numbers debug 1, info 2, warn 3, error 4; none (0) is printed output.
    if (g_log_echo_level > 0 && effective >= g_log_echo_level) {
        fputs(text, stderr);
        fflush(stderr);
    }
    if (effective >= GGML_LOG_LEVEL_WARN) {
        append(g_log, text, kLogCapacity);
    }
    if (effective >= GGML_LOG_LEVEL_ERROR) {
        append(g_errors, text, kErrorCapacity);
    }
}

// As one line.
std::string last_errors() {
    std::unique_lock<std::mutex> lock(g_log_mutex, std::try_to_lock);
    std::string line = lock.owns_lock() ? g_errors : "";
    while (!line.empty() && line.back() == '\n') {
        line.pop_back();
    }
    for (size_t at = line.find('\n'); at != std::string::npos; at = line.find('\n', at)) {
        line.replace(at, 1, "; ");
    }
    return line;
}

// Without a callback ggml_abort prints a backtrace by starting a debugger, which takes seconds and
// writes to a terminal that is not ours. Backends of GPUs log why, and abort with no more than "CUDA error".
void on_abort(const char * message) {
    const std::string errors = last_errors();
    fprintf(stderr, "ggml abort: %s%s%s\n", message, errors.empty() ? "" : ", after: ", errors.c_str());
    fflush(stderr);
    // _exit rather than abort(): no core dump, and no handlers of a runtime that is mid-call.
    _exit(134);
}

} // namespace

// Captures ggml's log: warnings and errors are kept for gs_take_log, and messages of at least
// echo_level (1 debug … 4 error, 0 none) also go to stderr.
API void gs_install_log(int echo_level) {
    g_log_echo_level = echo_level;
    ggml_log_set(on_log, nullptr);
    ggml_set_abort_callback(on_abort);
}

// The address of the log callback, for llama_log_set.
API void * gs_log_callback() {
    return reinterpret_cast<void *>(on_log);
}

// Moves the captured warnings and errors into out, newest last; returns the number of bytes.
API int gs_take_log(char * out, int capacity) {
    std::lock_guard<std::mutex> lock(g_log_mutex);
    size_t start = g_log.size() > size_t(capacity) ? g_log.size() - size_t(capacity) : 0;
    const size_t size = g_log.size() - start;
    memcpy(out, g_log.data() + start, size);
    g_log.clear();
    return int(size);
}
