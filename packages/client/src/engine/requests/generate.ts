import { ModelError } from "../../errors.ts"
import { type Engine, roomOf } from "../Engine.ts"
import { generate as runGeneration, type Subject } from "../Generation.ts"
import type { EngineRequest, TokenData } from "../messages.ts"
import type { Send } from "./index.ts"

/**
 * A text that grows 20 times a second looks smooth. A slower model's tokens leave one by one, at once; and what
 * an event costs the host, a millisecond of its core when the model has emptied its caches, is paid that often.
 */
const TOKEN_INTERVAL_MS = 50

/**
 * Tokens on their way to the host. Each write wakes that process, which on a small machine takes the
 * processor from a local server: tokens that come faster than a person could see leave together.
 */
class TokenWriter {
  private readonly send: Send
  private tokens: Array<TokenData> = []
  private writtenAt = 0

  constructor(send: Send) {
    this.send = send
  }

  push(id: number, text: string): void {
    this.tokens.push([id, text])
    if (performance.now() - this.writtenAt >= TOKEN_INTERVAL_MS) this.flush()
  }

  flush(): void {
    if (this.tokens.length === 0) return
    this.send({ type: "generating", tokens: this.take() })
    this.writtenAt = performance.now()
  }

  /** What was not written yet is the caller's. */
  take(): ReadonlyArray<TokenData> {
    const { tokens } = this
    this.tokens = []
    return tokens
  }
}

export const generate = (
  engine: Engine,
  request: EngineRequest & { type: "generate" },
  send: Send,
): void => {
  const { model, context, options, path } = engine.required()
  if (options.embeddings || model.info.isDiffusion) {
    throw new ModelError({
      path,
      during: "decode",
      detail: options.embeddings
        ? "it puts out embeddings, so it cannot generate text; 'verify' can evaluate it."
        : "it is a diffusion model, which does not generate text token by token; 'verify' can evaluate it.",
    })
  }
  const writer = new TokenWriter(send)
  const subject: Subject = {
    model,
    context,
    path,
    room: roomOf(engine.required()),
    failIfLost: () => engine.failIfLost(),
    isCancelled: () => engine.isCancelled,
  }
  try {
    const { text, stats } = runGeneration(subject, request, {
      onToken: (id, text) => writer.push(id, text),
    })
    send({ type: "generated", tokens: writer.take(), text, stats })
  } finally {
    // What was computed before a failure is the user's all the same.
    writer.flush()
  }
}
