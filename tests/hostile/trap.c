// Calls of ggml that may crash or abort, from which this process comes back: for one thread, whose frames are ggml's alone.

#define _GNU_SOURCE
#include "trap.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static sigjmp_buf g_back;
static volatile int g_armed;
static pthread_t g_owner;
static char g_words[1024];

typedef int (*call_type)(void *, void *);

static void report(const char * words, int code) {
    if (g_armed && pthread_equal(pthread_self(), g_owner)) {
        g_armed = 0;
        snprintf(g_words, sizeof(g_words), "%s", words);
        siglongjmp(g_back, 1);
    }
    fprintf(stderr, "%s\n", words);
    _exit(code);
}

void trap_report(const char * words) {
    report(words, 134);
}

static void on_signal(int number, siginfo_t * info, void * context) {
    (void) context;
    const char * name = number == SIGSEGV ? "SIGSEGV" : number == SIGBUS ? "SIGBUS" : number == SIGFPE ? "SIGFPE" : "SIGILL";
    char words[96];
    snprintf(words, sizeof(words), "ggml crash: %s at %p", name, info->si_addr);
    report(words, 128 + number);
}

static void on_abort(const char * message) {
    char words[900];
    snprintf(words, sizeof(words), "ggml abort: %s", message);
    report(words, 134);
}

// ggml_set_abort_callback(on_abort) is the caller's to do.
void * trap_abort_callback(void) {
    return (void *) on_abort;
}

// A stack of its own lets a kernel that ran over its stack say so.
static char g_stack[64 * 1024];

void trap_install(void) {
    stack_t stack;
    memset(&stack, 0, sizeof(stack));
    stack.ss_sp = g_stack;
    stack.ss_size = sizeof(g_stack);
    sigaltstack(&stack, NULL);
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    const int numbers[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL };
    for (int i = 0; i < 4; i++) {
        sigaction(numbers[i], &action, NULL);
    }
}

// The result of call(first, second), or -1000 when it crashed or aborted: trap_words says how.
int trap_call(void * call, void * first, void * second) {
    if (sigsetjmp(g_back, 1) != 0) {
        return -1000;
    }
    g_owner = pthread_self();
    g_armed = 1;
    const int result = ((call_type) call)(first, second);
    g_armed = 0;
    return result;
}

char * trap_words(void) {
    return g_words;
}
