/** Holds the lock of the ledger at descriptor 3 until it is ended. */
import { MemoryLedger } from "./MemoryLedger.ts"

MemoryLedger.watch(3, 0).alone(() => {
  process.stdout.write("locked\n")
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
})
