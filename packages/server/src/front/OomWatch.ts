import { readFileSync } from "node:fs"

/**
 * Notices that the system ended processes for want of memory: of the machine, or of a control group. It does so by SIGKILL,
 * and tells nobody but its log; Linux counts it in `/proc/vmstat`.
 */
export class OomWatch {
  readonly #file: string
  #count: number

  constructor(file = "/proc/vmstat") {
    this.#file = file
    this.#count = this.#read()
  }

  /** Whether it did since this was asked last. */
  hasKilled(): boolean {
    const before = this.#count
    this.#count = this.#read()
    return this.#count > before
  }

  /** 0 where the system does not say. */
  #read(): number {
    try {
      return Number(/^oom_kill (\d+)$/m.exec(readFileSync(this.#file, "utf8"))?.[1] ?? 0)
    } catch {
      return 0
    }
  }
}
