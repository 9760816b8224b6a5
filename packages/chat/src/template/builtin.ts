/**
 * Chat templates by llama.cpp's names, for models that bring none. What each writes is what `llama_chat_apply_template`
 * of llama.cpp v0.5 (src/llama-chat.cpp) writes, which a test compares.
 */
import { UnknownTemplateError } from "../errors.ts"

const CONTENT = "{{ message.content }}"
const TRIMMED = "{{ message.content | trim }}"
const ROLE = "{{ message.role }}"

/** Text as it is, whatever Jinja would make of line feeds and braces. */
const text = (literal: string): string => (literal === "" ? "" : `{{ ${JSON.stringify(literal)} }}`)

/** Literals between Jinja's own pieces. */
const line = (strings: TemplateStringsArray, ...pieces: ReadonlyArray<string>): string =>
  strings.map((literal, index) => text(literal) + (pieces[index] ?? "")).join("")

interface ByRole {
  readonly system?: string
  readonly user?: string
  readonly assistant?: string
  readonly tool?: string
  readonly other?: string
}

const byRole = ({ other, ...roles }: ByRole): string => {
  const cases = Object.entries(roles).map(
    ([role, piece], index) =>
      `{% ${index === 0 ? "if" : "elif"} message.role == '${role}' %}${piece}`,
  )
  return `${cases.join("")}${other === undefined ? "" : `{% else %}${other}`}{% endif %}`
}

/** @param start where an answer begins, after all messages */
const turns = (each: string, start = "", before = ""): string =>
  `${before}{% for message in messages %}${each}{% endfor %}${
    start === "" ? "" : `{% if add_generation_prompt %}${start}{% endif %}`
  }`

/** `role` and content between marks, the same for every role. */
const uniform = (open: string, middle: string, close: string, content = CONTENT): string =>
  turns(
    line`${text(open)}${ROLE}${text(middle)}${content}${text(close)}`,
    line`${text(open)}assistant${text(middle)}`,
  )

/** What opens a turn of Llama 2 and Mistral, when the one before was an answer. */
const ifNewTurn = (piece: string): string =>
  `{% if not turn.isOpen %}${piece}{% set turn.isOpen = true %}{% endif %}`
const endOfTurn = "{% set turn.isOpen = false %}"

const llama2 = (system: string, { bos = "", content = CONTENT } = {}): string =>
  turns(
    ifNewTurn(line`${text(bos)}[INST] `) +
      byRole({
        system,
        user: line`${content} [/INST]`,
        other: line`${content}</s>` + endOfTurn,
      }),
    "",
    `{% set turn = namespace(isOpen=true) %}${text("[INST] ")}`,
  )

const mistral = (leading: string, trailing: string, answer = CONTENT): string =>
  turns(
    ifNewTurn(line`${text(leading)}[INST]${text(trailing)}`) +
      byRole({
        system: line`${CONTENT}\n\n`,
        user: line`${CONTENT}${text(leading)}[/INST]`,
        other: line`${text(trailing)}${answer}</s>` + endOfTurn,
      }),
    "",
    "{% set turn = namespace(isOpen=false) %}",
  )

const mistral7 = (space: string): string =>
  turns(
    byRole({
      system: line`[SYSTEM_PROMPT]${text(space)}${CONTENT}[/SYSTEM_PROMPT]`,
      user: line`[INST]${text(space)}${CONTENT}[/INST]`,
      other: line`${text(space)}${CONTENT}</s>`,
    }),
  )

/** System messages are kept for the next message of the user. */
const keepSystem = (content: string): string => `{% set kept.system = kept.system ~ ${content} %}`
const keptSystem = `{% if kept.system %}{{ kept.system }}${text("\n\n")}{% set kept.system = '' %}{% endif %}`
const KEPT = "{% set kept = namespace(system='') %}"

const vicuna = (system: string): string =>
  turns(
    byRole({
      system,
      user: line`USER: ${CONTENT}\n`,
      assistant: line`ASSISTANT: ${CONTENT}</s>\n`,
    }),
    text("ASSISTANT:"),
  )

const exaone = (tool: ByRole): string =>
  turns(
    byRole({
      system: line`[|system|]${TRIMMED}[|endofturn|]\n`,
      user: line`[|user|]${TRIMMED}\n`,
      assistant: line`[|assistant|]${TRIMMED}[|endofturn|]\n`,
      ...tool,
    }),
    text("[|assistant|]"),
  )

const granite4 = turns(
  `{% if message.role == 'assistant_tool_call' %}${text("<|start_of_role|>assistant<|end_of_role|><|tool_call|>")}{% else %}${line`<|start_of_role|>${ROLE}<|end_of_role|>`}{% endif %}${line`${CONTENT}<|end_of_text|>\n`}`,
  text("<|start_of_role|>assistant<|end_of_role|>"),
)

const HUMAN = "{% if message.role == 'user' %}HUMAN{% else %}{{ message.role | upper }}{% endif %}"
const bailing = (start: string): string => turns(line`<role>${HUMAN}</role>${CONTENT}`, text(start))

const isFirstSystem = "loop.first and message.role == 'system'"

const templates = {
  bailing: bailing("<role>ASSISTANT</role>"),
  "bailing-think": bailing("<role>ASSISTANT</role><think>"),
  bailing2: turns(
    line`<role>${HUMAN}</role>${CONTENT}<|role_end|>`,
    text("<role>ASSISTANT</role>"),
    `{% if not messages or messages[0].role != 'system' %}${text("<role>SYSTEM</role>detailed thinking off<|role_end|>")}{% endif %}`,
  ),
  chatglm3: turns(line`<|${ROLE}|>\n ${CONTENT}`, text("<|assistant|>"), text("[gMASK]sop")),
  chatglm4: turns(line`<|${ROLE}|>\n${CONTENT}`, text("<|assistant|>\n"), text("[gMASK]<sop>")),
  chatml: uniform("<|im_start|>", "\n", "<|im_end|>\n"),
  "command-r": turns(
    byRole({
      system: line`<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>${TRIMMED}<|END_OF_TURN_TOKEN|>`,
      user: line`<|START_OF_TURN_TOKEN|><|USER_TOKEN|>${TRIMMED}<|END_OF_TURN_TOKEN|>`,
      assistant: line`<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>${TRIMMED}<|END_OF_TURN_TOKEN|>`,
    }),
    text("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"),
  ),
  deepseek: turns(
    byRole({
      system: CONTENT,
      user: line`### Instruction:\n${CONTENT}\n`,
      assistant: line`### Response:\n${CONTENT}\n<|EOT|>\n`,
    }),
    text("### Response:\n"),
  ),
  "deepseek-ocr": turns(CONTENT),
  deepseek2: turns(
    byRole({
      system: line`${CONTENT}\n\n`,
      user: line`User: ${CONTENT}\n\n`,
      assistant: line`Assistant: ${CONTENT}<｜end▁of▁sentence｜>`,
    }),
    text("Assistant:"),
  ),
  deepseek3: turns(
    byRole({
      system: line`${CONTENT}\n\n`,
      user: line`<｜User｜>${CONTENT}`,
      assistant: line`<｜Assistant｜>${CONTENT}<｜end▁of▁sentence｜>`,
    }),
    text("<｜Assistant｜>"),
  ),
  "exaone-moe": turns(
    byRole({
      system: line`<|system|>\n${TRIMMED}<|endofturn|>\n`,
      user: line`<|user|>\n${TRIMMED}<|endofturn|>\n`,
      assistant: line`<|assistant|>\n${TRIMMED}<|endofturn|>\n`,
      tool: line`<|tool|>\n${TRIMMED}<|endofturn|>\n`,
    }),
    text("<|assistant|>\n"),
  ),
  exaone3: exaone({}),
  exaone4: exaone({ tool: line`[|tool|]${TRIMMED}[|endofturn|]\n` }),
  falcon3: uniform("<|", "|>\n", "\n"),
  gemma: turns(
    byRole({
      system: keepSystem("(message.content | trim)"),
      assistant: line`<start_of_turn>model\n${TRIMMED}<end_of_turn>\n`,
      other: line`<start_of_turn>${ROLE}\n${keptSystem}${TRIMMED}<end_of_turn>\n`,
    }),
    text("<start_of_turn>model\n"),
    KEPT,
  ),
  gigachat: turns(
    `{% if ${isFirstSystem} %}${line`${CONTENT}<|message_sep|>`}{% elif message.role == 'user' %}${line`user<|role_sep|>${CONTENT}<|message_sep|>available functions<|role_sep|>[]<|message_sep|>`}{% elif message.role == 'assistant' %}${line`assistant<|role_sep|>${CONTENT}<|message_sep|>`}{% endif %}`,
    text("assistant<|role_sep|>"),
    text("<s>"),
  ),
  glmedge: turns(line`<|${ROLE}|>\n${CONTENT}`, text("<|assistant|>")),
  "gpt-oss": turns(
    line`<|start|>${ROLE}<|message|>${CONTENT}` +
      byRole({ assistant: text("<|return|>"), other: text("<|end|>") }),
    text("<|start|>assistant"),
  ),
  granite: turns(
    line`<|start_of_role|>${ROLE}<|end_of_role|>` +
      `{% if message.role == 'assistant_tool_call' %}${text("<|tool_call|>")}{% endif %}` +
      line`${CONTENT}<|end_of_text|>\n`,
    text("<|start_of_role|>assistant<|end_of_role|>"),
  ),
  "granite-4.0": granite4,
  "granite-4.1": granite4,
  "grok-2": turns(
    byRole({
      system: line`System: ${TRIMMED}<|separator|>\n\n`,
      user: line`Human: ${TRIMMED}<|separator|>\n\n`,
      assistant: line`Assistant: ${CONTENT}<|separator|>\n\n`,
    }),
    text("Assistant:"),
  ),
  "hunyuan-dense": turns(
    `{% if ${isFirstSystem} %}${line`${CONTENT}<｜hy_place▁holder▁no▁3｜>`}{% endif %}` +
      byRole({
        assistant: line`<｜hy_Assistant｜>${CONTENT}<｜hy_place▁holder▁no▁2｜>`,
        user: line`<｜hy_User｜>${CONTENT}<｜hy_Assistant｜>`,
      }),
  ),
  "hunyuan-moe": turns(
    byRole({
      system: line`<|startoftext|>${CONTENT}<|extra_4|>`,
      assistant: line`${CONTENT}<|eos|>`,
      other: line`<|startoftext|>${CONTENT}<|extra_0|>`,
    }),
  ),
  "hunyuan-vl": turns(
    `{% if ${isFirstSystem} %}${line`${CONTENT}<｜hy_place▁holder▁no▁3｜>`}{% endif %}` +
      byRole({
        user: line`${CONTENT}<｜hy_User｜>`,
        assistant: line`${CONTENT}<｜hy_Assistant｜>`,
      }),
    "",
    text("<｜hy_begin▁of▁sentence｜>"),
  ),
  "kimi-k2": turns(
    byRole({
      system: text("<|im_system|>system<|im_middle|>"),
      user: text("<|im_user|>user<|im_middle|>"),
      assistant: text("<|im_assistant|>assistant<|im_middle|>"),
      tool: text("<|im_system|>tool<|im_middle|>"),
    }) + line`${CONTENT}<|im_end|>`,
    text("<|im_assistant|>assistant<|im_middle|>"),
  ),
  llama2: llama2(line`${CONTENT}\n`),
  "llama2-sys": llama2(line`<<SYS>>\n${CONTENT}\n<</SYS>>\n\n`),
  "llama2-sys-bos": llama2(line`<<SYS>>\n${CONTENT}\n<</SYS>>\n\n`, { bos: "<s>" }),
  "llama2-sys-strip": llama2(line`<<SYS>>\n${TRIMMED}\n<</SYS>>\n\n`, { content: TRIMMED }),
  llama3: uniform("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", TRIMMED),
  llama4: uniform("<|header_start|>", "<|header_end|>\n\n", "<|eot|>", TRIMMED),
  megrez: uniform("<|role_start|>", "<|role_end|>", "<|turn_end|>"),
  minicpm: turns(byRole({ user: line`<用户>${TRIMMED}<AI>`, other: TRIMMED })),
  "mistral-v1": mistral(" ", " "),
  "mistral-v3": mistral("", " ", TRIMMED),
  "mistral-v3-tekken": mistral("", ""),
  "mistral-v7": mistral7(" "),
  "mistral-v7-tekken": mistral7(""),
  monarch: turns(
    `{% if not loop.first %}${text("<s>")}{% endif %}${line`${ROLE}\n${CONTENT}</s>\n`}`,
    text("<s>assistant\n"),
  ),
  openchat: turns(
    byRole({
      system: line`${CONTENT}<|end_of_turn|>`,
      other: line`GPT4 Correct ${"{{ message.role[0] | upper }}{{ message.role[1:] }}"}: ${CONTENT}<|end_of_turn|>`,
    }),
    text("GPT4 Correct Assistant:"),
  ),
  orion: turns(
    byRole({
      system: keepSystem("message.content"),
      user: line`Human: ${keptSystem}${CONTENT}\n\nAssistant: </s>`,
      other: line`${CONTENT}</s>`,
    }),
    "",
    KEPT,
  ),
  "pangu-embedded": turns(
    `{% if loop.first and message.role != 'system' %}${text("[unused9]系统：[unused10]")}{% endif %}` +
      byRole({
        system: line`[unused9]系统：${CONTENT}[unused10]`,
        user: line`[unused9]用户：${CONTENT}[unused10]`,
        assistant: line`[unused9]助手：${CONTENT}[unused10]`,
        tool: line`[unused9]工具：${CONTENT}[unused10]`,
      }),
    text("[unused9]助手："),
  ),
  phi3: uniform("<|", "|>\n", "<|end|>\n"),
  phi4: uniform("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
  "rwkv-world": turns(
    byRole({
      system: line`System: ${TRIMMED}\n\n`,
      user: `${line`User: ${TRIMMED}\n\n`}{% if loop.last %}${text("Assistant:")}{% endif %}`,
      assistant: line`Assistant: ${TRIMMED}\n\n`,
    }),
  ),
  seed_oss: turns(
    line`<seed:bos>${ROLE}\n` + byRole({ assistant: TRIMMED, other: CONTENT }) + text("<seed:eos>"),
    text("<seed:bos>assistant\n"),
  ),
  smolvlm: turns(
    byRole({
      system: line`${CONTENT}\n\n`,
      user: line`User: ${CONTENT}<end_of_utterance>\n`,
      other: line`Assistant: ${CONTENT}<end_of_utterance>\n`,
    }),
    text("Assistant:"),
    text("<|im_start|>"),
  ),
  "solar-open": turns(
    line`<|begin|>${ROLE}<|content|>${CONTENT}<|end|>`,
    text("<|begin|>assistant"),
  ),
  vicuna: vicuna(line`${CONTENT}\n\n`),
  "vicuna-orca": vicuna(line`SYSTEM: ${CONTENT}\n`),
  yandex: turns(
    byRole({
      user: line` Пользователь: ${CONTENT}\n\n`,
      assistant: line` Ассистент: ${CONTENT}\n\n`,
    }),
    text(" Ассистент:[SEP]"),
  ),
  zephyr: uniform("<|", "|>\n", "<|endoftext|>\n"),
} as const

/** Names of the built-in templates, in order. */
export const builtinTemplateNames: ReadonlyArray<string> = Object.keys(templates)

/** The Jinja source of a built-in template. @throws {UnknownTemplateError} */
export const builtinTemplate = (name: string): string => {
  const source = Object.hasOwn(templates, name)
    ? templates[name as keyof typeof templates]
    : undefined
  if (source === undefined) throw new UnknownTemplateError({ name, names: builtinTemplateNames })
  return source
}
