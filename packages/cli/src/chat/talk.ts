/** A chat with one model after another, until its user leaves. */
import {
  type ChatTemplate,
  type OutputDelta,
  OutputReader,
  type ReasoningFormat,
} from "@ggml-rpc/chat"
import type { Cluster, GgufFile } from "@ggml-rpc/client"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { ConversationFileError } from "../errors.ts"
import { errorText } from "../failureText.ts"
import { GenerationMeter } from "../GenerationMeter.ts"
import { type RunReport, textReport } from "../runReport.ts"
import { columnsOf, note, noteLine, print, stderr, stdout, styleOf } from "../terminal.ts"
import { formatCount } from "../units.ts"
import { wrap } from "../wrap.ts"
import { AnswerView, statsLine } from "./AnswerView.ts"
import type { Conversation } from "./Conversation.ts"
import { isInteractive, type LineEditor, openLineEditor } from "./LineEditor.ts"
import { readSaid, type SlashName, slashHelp } from "./slash.ts"
import { templateOf } from "./template.ts"

/** A model's file, and what its header says. */
export interface ModelFile {
  readonly path: string
  readonly gguf: GgufFile
}

export interface TalkOptions {
  readonly conversation: Conversation
  /** What is said first, before anybody is asked. */
  readonly first: string | undefined
  readonly isSingleTurn: boolean
  /** Behind each answer: how long it took, and what the context holds. */
  readonly tellsStats: boolean
  readonly sampling: Cluster.GenerateOptions
  /** Jinja instead of the models' own. */
  readonly templateSource: string | undefined
  readonly kwargs: Readonly<Record<string, unknown>> | undefined
  readonly thinks: boolean
  readonly reasoningFormat: ReasoningFormat | undefined
  readonly planOptionsOf: (gguf: GgufFile) => Cluster.PlanOptions
  /** Finds a model that the user names. */
  readonly find: (name: string) => Effect.Effect<ModelFile, Error>
}

const style = styleOf(stderr)

/** A quiet line. */
const say = (text: string): void => {
  for (const line of wrap(text, columnsOf(stderr))) noteLine(style.dim(line))
}

const sayError = (error: Error): void => noteLine(errorText(error.message))

export const talk = (
  cluster: Cluster.Cluster,
  start: ModelFile,
  options: TalkOptions,
  report: RunReport = textReport(),
) =>
  Effect.scoped(
    Effect.gen(function* () {
      const editor = yield* openLineEditor
      let { first } = options
      let next: ModelFile | undefined = start
      while (next !== undefined) {
        const file: ModelFile = next
        next = yield* Effect.scoped(
          Effect.gen(function* () {
            const loaded = yield* load(cluster, file, options, report)
            return yield* converse({ ...loaded, file, editor, options }, first)
          }),
        )
        first = undefined
      }
    }),
  )

const load = (
  cluster: Cluster.Cluster,
  { path, gguf }: ModelFile,
  { planOptionsOf, templateSource }: TalkOptions,
  report: RunReport,
) =>
  Effect.gen(function* () {
    const plan = yield* cluster.plan(path, planOptionsOf(gguf))
    report.planned(plan)
    const model = yield* cluster.load(plan, report.progress)
    report.loaded(model)
    return { model, template: yield* templateOf(model.info, templateSource) }
  }).pipe(Effect.ensuring(Effect.sync(report.close)))

interface Chat {
  readonly model: Cluster.ClusterModel
  readonly template: ChatTemplate
  readonly file: ModelFile
  readonly editor: LineEditor
  readonly options: TalkOptions
}

/** Until the user leaves, or wants another model: that. */
const converse = (chat: Chat, first: string | undefined) =>
  Effect.gen(function* () {
    const { editor, options } = chat
    if (first !== undefined) {
      if (isInteractive()) noteLine(`> ${first}`)
      yield* ask(chat, first)
      if (options.isSingleTurn || !isInteractive()) return undefined
    } else if (isInteractive()) say("/help lists what can be said besides messages.")
    for (;;) {
      const line = yield* editor.read
      if (line === undefined) return undefined
      if (line.trim() === "") continue
      const said = readSaid(line)
      if (said.kind === "unknown") {
        say(
          `There is no /${said.word}. /help lists what there is; // begins a message with a slash.`,
        )
      } else if (said.kind === "command") {
        const end = yield* obey(chat, said.name, said.value)
        if (end !== undefined) return end.next
      } else {
        yield* ask(chat, said.text)
        if (options.isSingleTurn) return undefined
      }
    }
  })

interface TalkEnd {
  readonly next: ModelFile | undefined
}

/** Does what a command says; something where the talk with this model ends by it. */
const obey = (chat: Chat, name: SlashName, value: string) =>
  Effect.gen(function* () {
    const { conversation } = chat.options
    switch (name) {
      case "help":
        noteLine(slashHelp())
        return undefined
      case "quit":
        return { next: undefined } satisfies TalkEnd
      case "clear":
        conversation.clear()
        say("A new conversation begins.")
        return undefined
      case "system":
        if (value !== "") conversation.system = value
        say(`The system message: ${conversation.system || "none"}`)
        return undefined
      case "regen":
        if (conversation.dropAnswer()) yield* answer(chat)
        else say("There is no message to answer yet.")
        return undefined
      case "save":
      case "load":
        if (value === "") say(`/${name} takes a file.`)
        else useFile(conversation, name, value)
        return undefined
      case "model":
        return yield* findModel(chat, value)
    }
  })

const useFile = (conversation: Conversation, action: "save" | "load", path: string): void => {
  try {
    if (action === "save") conversation.save(path)
    const count = action === "load" ? conversation.load(path) : conversation.messages.length
    say(`${formatCount(count, "message")} ${action === "load" ? "from" : "in"} ${path}`)
  } catch (error) {
    if (!(error instanceof ConversationFileError)) throw error
    sayError(error)
  }
}

/** The conversation goes on with the model, where it is found. */
const findModel = ({ file, options }: Chat, name: string) =>
  Effect.gen(function* () {
    if (name === "") {
      say(`The model: ${file.path}`)
      return undefined
    }
    const found = yield* Effect.either(options.find(name))
    if (Either.isRight(found)) return { next: found.right } satisfies TalkEnd
    sayError(found.left)
    return undefined
  })

const ask = (chat: Chat, text: string) =>
  Effect.suspend(() => {
    chat.options.conversation.ask(text)
    return answer(chat)
  })

/** An answer to the last message, which is taken back where there can be none. */
const answer = (chat: Chat) =>
  Effect.gen(function* () {
    const { model, options } = chat
    const { conversation } = options
    const prompt = rendered(chat)
    if (prompt === undefined) return conversation.takeBack()
    const tokens = yield* model.tokenize(prompt)
    if (tokens.length >= model.contextSize) {
      conversation.takeBack()
      const counts = `${formatCount(tokens.length, "token")}, and the context holds ${model.contextSize}`
      return say(`The conversation would have ${counts}: /clear begins anew.`)
    }
    yield* speak(chat, prompt, tokens)
  })

const rendered = ({ template, options }: Chat): string | undefined => {
  const { conversation, kwargs, thinks } = options
  try {
    return template.render({ messages: conversation.messages, kwargs, enableThinking: thinks })
  } catch (error) {
    if (!(error instanceof Error && "_tag" in error)) throw error
    sayError(error)
    return undefined
  }
}

/** Generates, shows and keeps an answer; Ctrl-C stops it, and what was said until then stays. */
const speak = (chat: Chat, prompt: string, tokens: ReadonlyArray<number>) =>
  Effect.gen(function* () {
    const { model, template, editor, options } = chat
    const reader = new OutputReader(template, { prompt, reasoningFormat: options.reasoningFormat })
    const isShared = stdout.isTTY && stderr.isTTY
    const view = new AnswerView({ print, note, style, isShared })
    const texts = { content: "", reasoning: "" }
    const show = (deltas: ReadonlyArray<OutputDelta>): void => {
      for (const delta of deltas) {
        if (delta.type === "content" || delta.type === "reasoning") texts[delta.type] += delta.text
      }
      view.push(deltas)
    }
    // The marks of thoughts are control tokens of many models.
    const settings = { ...options.sampling, controlText: true }
    const meter = new GenerationMeter(tokens.length)
    const onToken = (token: Cluster.GeneratedToken): void => {
      meter.count(token)
      show(reader.push(token.text))
    }
    const generation = yield* Effect.fork(model.generateEach(tokens, onToken, settings))
    let isStopping = false
    const onInterrupt = (): void => {
      // An engine that waits for a server that hangs does not stop soon: who asks twice leaves.
      if (isStopping) process.kill(process.pid, "SIGINT")
      isStopping = true
      generation.unsafeInterruptAsFork(generation.id())
    }
    const exit = yield* editor.during(Fiber.await(generation), onInterrupt)
    show(reader.finish())
    view.end()
    if (texts.content + texts.reasoning === "") options.conversation.takeBack()
    else options.conversation.answer(texts.content, texts.reasoning)
    if (Exit.isSuccess(exit) || Cause.isInterruptedOnly(exit.cause)) {
      const stats = Exit.isSuccess(exit) ? exit.value : meter.stats
      if (options.tellsStats) say(statsLine(stats, model.contextSize))
    } else return yield* Effect.failCause(exit.cause)
  })
