// The expression as a program has it.

const FORMS: Record<string, (model: string, expression: string, head: string) => string> = {
  CLI: (model, expression, head) =>
    `taskbasis classify --basis ${shell(model)} --task ${shell(head)} --weights ${shell(expression)} image.png`,
  Python: (model, expression, head) =>
    [
      "import taskbasis",
      "",
      `basis = taskbasis.open(${quoted(model)})`,
      "encoder = taskbasis.Encoder(basis)",
      `head = taskbasis.Head(${quoted(model)}, ${quoted(head)})`,
      `print(taskbasis.classify(encoder, head, "image.png", ${quoted(expression)}))`,
    ].join("\n"),
  C: (model, expression, head) =>
    [
      "tb_basis *basis;",
      "tb_encoder *encoder;",
      "tb_head *head;",
      "tb_weights *weights;",
      "/* check() prints tb_error_message(error) and exits */",
      `check(tb_basis_open(${quoted(model)}, NULL, &basis, &error));`,
      "check(tb_encoder_create(basis, NULL, &encoder, &error));",
      `check(tb_head_open(${quoted(model)}, ${quoted(head)}, NULL, &head, &error));`,
      `check(tb_weights_create(basis, ${quoted(expression)}, &weights, &error));`,
      "check(tb_encoder_encode(encoder, weights, pixels, n, embeds, n * embedding, &error));",
    ].join("\n"),
};

export const LANGUAGES = Object.keys(FORMS);

export function snippet(language: string, model: string, expression: string, head: string): string {
  return FORMS[language]?.(model, expression, head) ?? "";
}

function quoted(text: string): string {
  return `"${text.replace(/[\\"]/g, "\\$&")}"`;
}

function shell(text: string): string {
  return /^[\w./-]+$/.test(text) ? text : `'${text.replace(/'/g, "'\\''")}'`;
}
