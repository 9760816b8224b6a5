/**
 * The parent's side of a blocking child process, imported as `@ggml-rpc/native/worker`; the child's own side is
 * `@ggml-rpc/native/worker/child`. Neither loads Effect or a library.
 */
export {
  startWorkersBy,
  Worker,
  type WorkerExit,
  type WorkerListener,
  type WorkerOptions,
  workerBundleName,
} from "./Worker.ts"
