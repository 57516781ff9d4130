// A team of threads that runs one program of phases at a time, without ever handing a phase from thread to thread.
#pragma once
#include <stdint.h>

namespace dyno {

// What a team runs. Chunks of a phase are taken by whichever thread is free; the next phase begins when all are done.
// A thread that was put to sleep by the system without a chunk in its hands holds nobody up.
class Program {
public:
    virtual ~Program() = default;
    virtual int phases() const = 0;
    virtual int chunks(int phase) const = 0;
    // thread: 0 (the caller) and up. phase and thread together own the scratch memory that a chunk uses.
    virtual void run(int phase, int chunk, int thread) = 0;
    // On the caller's thread, after the last chunk of a phase.
    virtual void ended(int phase) = 0;
};

constexpr int kMaxThreads = 64;
constexpr int kMaxPhases = 1 << 13;
constexpr int kMaxChunks = 1 << 15;  // of one phase

// Run a program on the caller's thread and threads - 1 others. One program at a time: a second caller waits.
void run_together(Program &program, int threads);

}  // namespace dyno
