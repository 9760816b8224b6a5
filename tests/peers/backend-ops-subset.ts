/**
 * Which cases of upstream's test-backend-ops the normal test run takes: all but the slow ones, of
 * every op, fused ones included. All 19871 that the CPU has a reference for take half an hour over RPC
 * on two busy cores, and nine tenths of that time goes into one seventh of them: large tensors, which
 * test the server's arithmetic (ggml's own) and not the protocol.
 *
 * test-backend-ops knows `-o`, a list of op names or of whole case strings, and `-p`, a regex
 * (ECMAScript, searched) over a case's parameters. Only `-p` is used here, because `-o` compiles a
 * regex per entry and case: half a second for each op named. The parameters tell the op well enough.
 */

/** Parameters of cases that are left out, as regexes anchored at the start. */
const slowParameters = [
  // Any dimension of four digits or more, but for SSM_CONV, which has no others.
  String.raw`(?!type=f32,ne_a=\[\d+,\d+,[14],1\],ne_b=\[\d+,\d+,1,1\]).*[=\[,]\d{4,}[,\]]`,
  // Two dimensions of three digits: UPSCALE, FILL, PAD; rope of 512 rows; convolution over images;
  // but for GROUP_NORM.
  String.raw`(?!.*,num_groups=).*ne(_a|_input)?=\[(\d{3,},\d{3,}|\d+,\d+,\d{3,})`,
  String.raw`.*ne_kernel=\[\d{2,},\d{2,}`,
  // FLASH_ATTN_EXT: 5305 cases. What stays has 113 keys or fewer and 3 queries or fewer.
  String.raw`hsk=\d+,hsv=.*,kv=(\d{4,}|512|113,nb=(1|32|75)),`,
  // LIGHTNING_INDEXER, whose reference takes seconds.
  String.raw`hsk=\d+,nh=\d+,kv=(256,nb=512|\d+,nb=32,ns=4,nm=1,type_K=(?!f16))`,
  // MUL_MAT_ID: few experts; of the 870 cases with 512 rows those with 17 columns.
  String.raw`type_a=\w+,type_b=\w+,n_mats=(\d{3,}|28|32|[48],n_used=\d+,b=[01],m=512,n=(?!17,))`,
  // GET_ROWS with 700 batches, CONCAT of 128x12x13x14 elements as a view.
  ".*,be1=700,",
  String.raw`type=q.*,ne_a=\[128,12,13,14\],.*,v=(4|8|12)$`,
  // IM2COL_3D goes through two values of eleven parameters: 2048 cases of one kernel.
  String.raw`.*,ne_input=\[20,20,10,3\],.*,IC=\d,(?!s0=1,s1=3,s2=3,)`,
  // Tables for these are searched for seconds; iq2_xxs, which is like them, stays.
  String.raw`type(_a|_src)?=iq(2_x?s|3_\w+),`,
  // It is ten times slower than the others in products with a choice of experts, or with a fused gate.
  String.raw`type_a=iq2_xxs,type_b=\w+,n_mats=`,
  "type=iq2_xxs,glu_op=",
  // Fused gates have 1, 2, 4 or 8 rows in each of their forms.
  String.raw`type=\w+,glu_op=\d+,m=[24],`,
  String.raw`.*,batch_dims=\[4,2\]`,
  // Recurrent ops over long sequences.
  String.raw`.*,n_seq_tokens=\d{3}`,
  // DIAG of 256x256x8x16.
  String.raw`type=f32,ne=\[256,1,8,16\]$`,
]

const without = (parts: readonly string[]): string => `(?!${parts.join("|")})`
// The first case of iq1 and iq2 types waits seconds for tables; one process pays that, not both.
const firstPart = "(.*=iq[12]|hsk=|type_a=)"

/**
 * The subset as two `-p` filters of about the same run time, for two processes at once; a case
 * matches exactly one of them. Together they hold every op that test-backend-ops has cases for.
 */
export const backendOpsSubset: readonly [string, string] = [
  `^(?=${firstPart})${without(slowParameters)}`,
  `^(?!${firstPart})${without(slowParameters)}`,
]
