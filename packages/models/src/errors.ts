/** What can be wrong with a model that is given by name, a class for each condition that a caller can act on. */
import { formatBytes, formatNeededBytes } from "@ggml-rpc/native/bindings"
import * as Data from "effect/Data"

/** A name that is none: not `user/repo[:quant]`, or no URL. */
export class ModelNameError extends Data.TaggedError("ModelNameError")<{
  readonly name: string
  readonly reason: string
}> {
  override get message() {
    return `'${this.name}' names no model: ${this.reason}.`
  }
}

/** There is no such repository, quantization, file or URL; `detail` says which and what there is instead. */
export class ModelNotFoundError extends Data.TaggedError("ModelNotFoundError")<{
  readonly name: string
  readonly detail: string
}> {
  override get message() {
    return `There is no model ${this.name}: ${this.detail}.`
  }
}

/** The hub or server gives the model to others only. */
export class ModelAccessError extends Data.TaggedError("ModelAccessError")<{
  readonly name: string
  /** Where a browser shows the model. */
  readonly page: string
  readonly status: number
  readonly isGated: boolean
  readonly hasToken: boolean
}> {
  override get message() {
    const { name, page, status, isGated, hasToken } = this
    if (isGated) {
      return hasToken
        ? `The model ${name} is gated, and the account of your token has no access (the server answered ${status}): ask for it on ${page}, then run this again.`
        : `The model ${name} is gated: ask for access on ${page}, then run this again with a token of that account in HF_TOKEN.`
    }
    return hasToken
      ? `The model ${name} may not be read with your token (the server answered ${status}): either it does not exist, or it is private and the token in HF_TOKEN is of another account, or has expired.`
      : `The model ${name} may not be read (the server answered ${status}): either there is none of that name, or it is private and needs a token in HF_TOKEN.`
  }
}

/** A server does not answer, breaks off or fails, after several attempts; what has come is kept. */
export class UnreachableError extends Data.TaggedError("UnreachableError")<{
  /** Without user name, password and query. */
  readonly url: string
  readonly problem: string
  /** What is on the disk and will not be asked for again. */
  readonly keptBytes: number
}> {
  override get message() {
    const kept =
      this.keptBytes > 0
        ? `; ${formatBytes(this.keptBytes)} are here and stay, the same command goes on from there`
        : "; check the network, or use --offline with a model that is here already"
    return `${this.url} cannot be read: ${this.problem}${kept}.`
  }
}

/** A server answers something else than what it was asked for. */
export class BadAnswerError extends Data.TaggedError("BadAnswerError")<{
  readonly url: string
  readonly problem: string
}> {
  override get message() {
    return `${this.url} cannot be used: ${this.problem}. Nothing that was here before has been changed.`
  }
}

/** All bytes came, and they are not those that were published. What came is removed. */
export class ChecksumError extends Data.TaggedError("ChecksumError")<{
  readonly url: string
  readonly algorithm: string
  readonly expected: string
  readonly actual: string
}> {
  override get message() {
    return `${this.url} arrived damaged: its ${this.algorithm} is ${this.actual}, and ${this.expected} was published. What came has been removed, and nothing that was here before was changed; run this again, and if it stays so, the server or a proxy before it gives other bytes.`
  }
}

/** The disk has no room for a model, or ran full. What has come is kept. */
export class DiskFullError extends Data.TaggedError("DiskFullError")<{
  readonly folder: string
  readonly neededBytes: number
  readonly freeBytes: number
  readonly keptBytes: number
}> {
  override get message() {
    const kept =
      this.keptBytes > 0 ? ` ${formatBytes(this.keptBytes)} of the model are here and stay.` : ""
    return `The disk of ${this.folder} is too small: ${formatNeededBytes(this.neededBytes)} are still needed and ${formatBytes(this.freeBytes)} are free.${kept} Make room ('ggml-rpc rm' removes models), or let LLAMA_CACHE name a folder on another disk; then the same command goes on.`
  }
}

/** The cache's folder cannot be read or written. */
export class ModelFolderError extends Data.TaggedError("ModelFolderError")<{
  readonly path: string
  readonly reason: string
}> {
  override get message() {
    return `${this.path} cannot be used to keep models: ${this.reason}. Let LLAMA_CACHE name a folder that can be written.`
  }
}

/** Asked not to use the network, and the model is not on the disk, or only a part of it. */
export class OfflineError extends Data.TaggedError("OfflineError")<{
  readonly name: string
  readonly folder: string
}> {
  override get message() {
    return `The model ${this.name} is not whole in ${this.folder}, and --offline forbids to download it; 'ggml-rpc ls' lists what is there.`
  }
}

/** A model cannot be removed while a process downloads it. */
export class ModelBusyError extends Data.TaggedError("ModelBusyError")<{
  readonly name: string
}> {
  override get message() {
    return `The model ${this.name} is being downloaded by another process; end that first.`
  }
}

export type ModelsError =
  | ModelNameError
  | ModelNotFoundError
  | ModelAccessError
  | UnreachableError
  | BadAnswerError
  | ChecksumError
  | DiskFullError
  | ModelFolderError
  | OfflineError
  | ModelBusyError

const tags: ReadonlySet<string> = new Set([
  "ModelNameError",
  "ModelNotFoundError",
  "ModelAccessError",
  "UnreachableError",
  "BadAnswerError",
  "ChecksumError",
  "DiskFullError",
  "ModelFolderError",
  "OfflineError",
  "ModelBusyError",
])

export const isModelsError = (error: unknown): error is ModelsError =>
  error instanceof Error && "_tag" in error && tags.has(String(error._tag))
