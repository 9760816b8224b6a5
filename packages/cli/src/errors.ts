/** What a command tells when it cannot go on. */
import * as Data from "effect/Data"

/** The prompt's file cannot be read. */
export class PromptFileError extends Data.TaggedError("PromptFileError")<{
  readonly path: string
  readonly reason: string
}> {
  override get message() {
    return `The prompt file ${this.path} cannot be read: ${this.reason}.`
  }
}

/** Text was given to a model that takes token ids only. */
export class NoTokenizerError extends Data.TaggedError("NoTokenizerError")<{
  readonly path: string
}> {
  override get message() {
    return `The model ${this.path} has no tokenizer, so it can neither read a prompt nor write text; 'ggml-rpc verify --tokens 1,2,3 ${this.path}' evaluates token ids with it.`
  }
}

/** The prompt turned into no tokens at all. */
export class EmptyPromptError extends Data.TaggedError("EmptyPromptError")<{
  readonly path: string
}> {
  override get message() {
    return `The prompt is empty, and the model ${this.path} has no token that begins a text: give it something to continue with -p.`
  }
}

/** A prompt that leaves no room in the context for a token after it, or is more than a model takes at once. */
export class PromptTooLongError extends Data.TaggedError("PromptTooLongError")<{
  readonly path: string
  readonly tokenCount: number
  readonly contextSize: number
  /** Infinity for models that take a prompt in parts. */
  readonly batchSize: number
}> {
  override get message() {
    if (this.tokenCount > this.batchSize && this.tokenCount < this.contextSize) {
      return `The prompt has ${this.tokenCount} tokens, which ${this.path} looks at all at once, and its batch holds ${this.batchSize}: raise --ubatch-size, or shorten the prompt.`
    }
    return `The prompt has ${this.tokenCount} tokens, but the context planned for ${this.path} holds ${this.contextSize}: raise --ctx-size, or shorten the prompt.`
  }
}

/** Token ids that a model does not have. */
export class TokenRangeError extends Data.TaggedError("TokenRangeError")<{
  readonly path: string
  readonly token: number
  readonly vocabSize: number
}> {
  override get message() {
    return `The model ${this.path} has ${this.vocabSize} tokens, so ${this.token} is none of its ids: they go from 0 to ${this.vocabSize - 1}.`
  }
}

/** Two evaluations of one model gave different amounts of numbers. */
export class OutputShapeError extends Data.TaggedError("OutputShapeError")<{
  readonly path: string
}> {
  override get message() {
    return `The model ${this.path} put out a different amount of numbers on the cluster than on this machine's CPU: one of them cannot run it.`
  }
}

/** A file that the demo should keep cannot be written. */
export class SaveError extends Data.TaggedError("SaveError")<{
  readonly path: string
  readonly reason: string
}> {
  override get message() {
    return `The demo model cannot be written to ${this.path}: ${this.reason}.`
  }
}

/** The file of certificates to trust is of no use. */
export class CertificateFileError extends Data.TaggedError("CertificateFileError")<{
  readonly path: string
  readonly reason: string
}> {
  override get message() {
    return `The certificates in ${this.path} cannot be used: ${this.reason}. --tls-ca takes a PEM file.`
  }
}

/** The file of a token is of no use. */
export class TokenFileError extends Data.TaggedError("TokenFileError")<{
  readonly path: string
  readonly reason: string
}> {
  override get message() {
    return `The token file ${this.path} cannot be used: ${this.reason}. 'openssl rand -hex 32 > FILE' makes a good one; servers and clients need the same.`
  }
}

/** The service cannot be written, started or stopped. */
export class ServiceError extends Data.TaggedError("ServiceError")<{
  readonly message: string
}> {}

/** The file of a conversation cannot be read or written. */
export class ConversationFileError extends Data.TaggedError("ConversationFileError")<{
  readonly path: string
  readonly action: "read" | "written"
  readonly reason: string
}> {
  override get message() {
    return `The conversation in ${this.path} cannot be ${this.action}: ${this.reason}.`
  }
}

/** The file of a system message or a chat template cannot be read. */
export class ChatFileError extends Data.TaggedError("ChatFileError")<{
  readonly flag: string
  readonly path: string
  readonly reason: string
}> {
  override get message() {
    return `${this.flag}: ${this.path} cannot be read: ${this.reason}.`
  }
}

/** A test of `bench` was not the one that was asked for. */
export class BenchTestError extends Data.TaggedError("BenchTestError")<{
  readonly path: string
  /** Such as `pp512`. */
  readonly test: string
  readonly reason: string
}> {
  override get message() {
    return `The test ${this.test} of ${this.path} has no result: ${this.reason}. Try others with -p, -n and -d.`
  }
}

/** Something failed and has been told already; only the exit code is left. */
export class ReportedError extends Data.TaggedError("ReportedError")<{
  readonly exitCode: number
}> {}
