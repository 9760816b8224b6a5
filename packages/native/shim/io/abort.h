#pragma once

#include <atomic>

// What raises it: a signal, a client that is gone, TypeScript. Whoever computes looks at it (io_abort_flag).
extern std::atomic<int> g_abort_flag;
