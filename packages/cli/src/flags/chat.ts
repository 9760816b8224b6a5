/** Conversations: llama-cli's flags (llama.cpp v0.5.0, common/arg.cpp). */
import { UsageError } from "../UsageError.ts"
import { type Flag, flag, toggle } from "./Flag.ts"
import { choice, type Kind, nonEmpty, onOff, optionalOnOffAuto, path, text } from "./kinds.ts"

const chat = "Chat"

/** A JSON object, as the values of its members. */
const jsonObject: Kind<Readonly<Record<string, unknown>>> = {
  value: "JSON",
  read: (texts, source) => {
    const given = texts.at(-1)!
    try {
      const value: unknown = JSON.parse(given)
      if (typeof value === "object" && value !== null && !Array.isArray(value)) {
        return value as Record<string, unknown>
      }
    } catch {
      // Told below.
    }
    throw new UsageError(`${source} takes a JSON object such as {"key": true}, not '${given}'`)
  },
}

/** Undefined where nobody says: the model decides. */
const conversation: Flag<boolean | undefined> = {
  name: "conversation",
  aliases: ["-cnv"],
  negations: ["--no-conversation", "-no-cnv"],
  kind: onOff,
  about: "talk with the model, turn by turn; -no-cnv: let it go on with the prompt as it is",
  unset: "as the model has a chat template or not",
  group: chat,
}

/** How a model is talked with, wherever it is. */
export const templateFlags = {
  chatTemplate: flag({
    name: "chat-template",
    rivals: "chat-template",
    env: "LLAMA_ARG_CHAT_TEMPLATE",
    kind: nonEmpty("NAME"),
    about: "a built-in template by llama.cpp's name, such as chatml or llama3, or Jinja itself",
    unset: "the model's, else chatml",
    group: chat,
  }),
  chatTemplateFile: flag({
    name: "chat-template-file",
    rivals: "chat-template",
    env: "LLAMA_ARG_CHAT_TEMPLATE_FILE",
    kind: path,
    about: "file with a Jinja template",
    group: chat,
  }),
  chatTemplateKwargs: flag({
    name: "chat-template-kwargs",
    env: "LLAMA_ARG_CHAT_TEMPLATE_KWARGS",
    kind: jsonObject,
    about: "more variables for the template",
    group: chat,
  }),
  reasoning: flag({
    name: "reasoning",
    aliases: ["-rea"],
    env: "LLAMA_ARG_REASONING",
    kind: optionalOnOffAuto,
    about: "off: tell the template that the model should not think",
    unset: "auto",
    group: chat,
  }),
  reasoningFormat: flag({
    name: "reasoning-format",
    env: "LLAMA_ARG_THINK",
    kind: choice(["none", "deepseek", "auto"]),
    about: "none: thoughts are shown as the model writes them, marks and all",
    unset: "auto",
    group: chat,
  }),
}

export const chatFlags = {
  systemPrompt: flag({
    name: "system-prompt",
    rivals: "system-prompt",
    aliases: ["-sys"],
    kind: text("TEXT"),
    about: "what the model is told before the conversation",
    group: chat,
  }),
  systemPromptFile: flag({
    name: "system-prompt-file",
    rivals: "system-prompt",
    aliases: ["-sysf"],
    kind: path,
    about: "file with such a text",
    group: chat,
  }),
  singleTurn: toggle({
    name: "single-turn",
    aliases: ["-st"],
    about: "end after one answer",
    group: chat,
  }),
  inPrefix: flag({
    name: "in-prefix",
    kind: text("TEXT"),
    about: "put before each message, in place of a template; -r says where an answer ends",
    group: chat,
  }),
  inSuffix: flag({
    name: "in-suffix",
    kind: text("TEXT"),
    about: "put behind each message, in place of a template",
    group: chat,
  }),
  inPrefixBos: toggle({
    name: "in-prefix-bos",
    about: "begin each message with the model's begin token, before --in-prefix",
    group: chat,
  }),
  ...templateFlags,
}

/** What `run` takes besides: whether to talk at all. */
export const conversationFlags = { conversation, ...chatFlags }
