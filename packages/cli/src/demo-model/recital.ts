/** What the demo model recites: an explanation of what the reader is looking at. */
export const recitalText = `\
You are watching one language model run on all the devices in its plan. It was constructed, not \
trained: a short program wrote every weight, and reciting this text is all it can do. Its eight \
layers were dealt out to those devices, by default in proportion to their free memory. For each \
word, a small vector of numbers passes through the layers of one device, moves on to the next, and \
ends as a score for every token in the vocabulary. The highest score names the word you read.

The layers are real: attention, a KV cache and a feed-forward network, with small random weights \
that shift each score a little and never change the winner. So the same text appears however the \
layers are split, over one server or five, ours or upstream's. If these sentences ever come out \
garbled, some device has computed wrong, and ggml-rpc verify shows by how much. Now try a model of \
your own.`

/** SentencePiece's space. */
export const SPACE = "▁"

/**
 * Shortest token, in characters. The SentencePiece tokenizer joins neighbouring symbols pair by pair
 * as long as each result is a token: none of two characters, so no longer one is ever found in a
 * prompt, and the recital starts at its beginning whatever the prompt ends with.
 */
const MIN_TOKEN_LENGTH = 3

/**
 * Cuts a text into tokens of which no two are equal, since the token alone tells the model how far it
 * has come, and a vocabulary holds each text once. A token is a word with the space before it; where
 * that would repeat an earlier token, or is too short, it goes on over the next word.
 */
export const recitalTokens = (text: string): readonly string[] => {
  const tokens: string[] = []
  const used = new Set<string>()
  let token = ""
  for (const word of text.match(/ ?[^ \n]+\n*/g) ?? []) {
    token += word.replaceAll(" ", SPACE)
    if (used.has(token) || token.length < MIN_TOKEN_LENGTH) continue
    used.add(token)
    tokens.push(token)
    token = ""
  }
  // A last token that never became unique makes one with those before it.
  return token === "" ? tokens : [...tokens.slice(0, -1), `${tokens.at(-1)}${token}`]
}
