/** Items of a response's output, one after the other, and the events that tell of them. */
import type { OutputDelta } from "@ggml-rpc/chat"
import { newId } from "../ids.ts"

type Emit = (type: string, data: object) => void

/** What kind of item is open, and its text so far. */
interface Open {
  readonly type: "reasoning" | "message" | "function_call"
  readonly id: string
  readonly callId: string
  readonly name: string
  text: string
}

const partOf = ({ type }: Open, text: string): object =>
  type === "reasoning"
    ? { type: "reasoning_text", text }
    : { type: "output_text", text, annotations: [], logprobs: [] }

const itemOf = (open: Open, status: "in_progress" | "completed"): Record<string, unknown> => {
  const { type, id, callId, name, text } = open
  const content = status === "completed" ? [partOf(open, text)] : []
  switch (type) {
    case "reasoning":
      return { type, id, summary: [], content, status }
    case "message":
      return { type, id, role: "assistant", content, status }
    case "function_call":
      return { type, id, call_id: callId, name, arguments: text, status }
  }
}

export class ResponseItems {
  readonly #emit: Emit
  readonly #output: Array<Record<string, unknown>> = []
  #open: Open | undefined

  constructor(emit: Emit) {
    this.#emit = emit
  }

  add(delta: OutputDelta): void {
    switch (delta.type) {
      case "reasoning":
        this.#enter("reasoning", "rs_")
        this.#text("response.reasoning_text.delta", delta.text)
        break
      case "content":
        this.#enter("message", "msg_")
        this.#text("response.output_text.delta", delta.text, { logprobs: [] })
        break
      case "toolCall":
        this.#close()
        this.#begin({
          type: "function_call",
          id: newId("fc_"),
          callId: delta.id,
          name: delta.name,
          text: "",
        })
        break
      case "toolArguments":
        this.#text("response.function_call_arguments.delta", delta.text)
    }
  }

  /** All items. */
  finish(): ReadonlyArray<Record<string, unknown>> {
    this.#close()
    return this.#output
  }

  #enter(type: "reasoning" | "message", prefix: string): void {
    if (this.#open?.type === type) return
    this.#close()
    this.#begin({ type, id: newId(prefix), callId: "", name: "", text: "" })
  }

  #begin(open: Open): void {
    this.#open = open
    this.#emit("response.output_item.added", {
      output_index: this.#output.length,
      item: itemOf(open, "in_progress"),
    })
    if (open.type !== "function_call") {
      this.#emit("response.content_part.added", { ...this.#place(open), part: partOf(open, "") })
    }
  }

  #text(event: string, delta: string, more: object = {}): void {
    const open = this.#open!
    open.text += delta
    this.#emit(event, { ...this.#place(open), delta, ...more })
  }

  #close(): void {
    const open = this.#open
    if (open === undefined) return
    this.#open = undefined
    const place = this.#place(open)
    const { type, name, text } = open
    if (type === "function_call") {
      this.#emit("response.function_call_arguments.done", { ...place, name, arguments: text })
    } else {
      const isThought = type === "reasoning"
      const done = isThought ? "response.reasoning_text.done" : "response.output_text.done"
      this.#emit(done, { ...place, text, ...(isThought ? {} : { logprobs: [] }) })
      this.#emit("response.content_part.done", { ...place, part: partOf(open, text) })
    }
    const item = itemOf(open, "completed")
    this.#emit("response.output_item.done", { output_index: this.#output.length, item })
    this.#output.push(item)
  }

  /** Calls have no parts. */
  #place({ type, id }: Open): object {
    const output_index = this.#output.length
    return type === "function_call"
      ? { item_id: id, output_index }
      : { item_id: id, output_index, content_index: 0 }
  }
}
