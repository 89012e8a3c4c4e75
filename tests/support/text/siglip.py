"""Makes siglip.json: what the transformers library computes with a small text tower of SigLIP's whose weights both sides
can make, and a small tokenizer of each kind: SentencePiece's unigrams (SigLIP) and Gemma's byte pairs (SigLIP 2). It
asserts that open_clip computes the same.

Needs open_clip_torch, transformers, tokenizers and PyTorch; run it from here: python siglip.py
"""

import json
import re
import string

import numpy as np
import open_clip
import torch
import transformers
from golden import values
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

WIDTH, LAYERS, HEADS, CONTEXT, VOCABULARY = 32, 2, 2, 16, 120
SCALE, BIAS = np.log(10.0), -3.0
TEXTS = [
    "a photo of a cat.",
    "A Photo  of the NUMBER: \"7\".\n",
    "the cat's photo; a_number of cats!",
    "naïve café — 猫",
    "",
    "photo of the cat " * 20,
]
CORPUS = ["a photo of a cat", "a photo of the number seven", "the cat and the number", "photos of cats and numbers"] * 5


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def gemma() -> Tokenizer:
    """As Gemma's: byte fallback, spaces as `▁`, no prefix."""
    bytes_ = [f"<0x{byte:02X}>" for byte in (0xC3, 0xA9, 0xAF, 0xE2, 0x80, 0x94)]
    letters = sorted(set("".join(CORPUS).replace(" ", "▁")))
    merges = [("c", "a"), ("ca", "t"), ("▁", "cat"), ("p", "h"), ("ph", "o"), ("pho", "t"), ("phot", "o"), ("t", "h"), ("th", "e"), ("▁", "the")]
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", *bytes_, *letters, *("".join(pair) for pair in merges)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, fuse_unk=True, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return tokenizer


def canonical(text: str) -> str:
    """As transformers' SiglipTokenizer.canonicalize_text, which needs SentencePiece to be called."""
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\s+", " ", text).strip()


def padded(tokenizer: Tokenizer, texts: list[str], pad: str) -> torch.Tensor:
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.enable_truncation(CONTEXT)
    tokenizer.enable_padding(length=CONTEXT, pad_id=tokenizer.token_to_id(pad), pad_token=pad)
    return torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(texts)])


def theirs() -> transformers.SiglipModel:
    text = dict(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, max_position_embeddings=CONTEXT, projection_size=WIDTH,
    )
    vision = dict(hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=8)
    model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)).eval()
    state = {}
    for name, tensor in model.state_dict().items():
        norm = name.replace("layer_norm", "ln_")
        state[name] = torch.from_numpy(values(norm, list(tensor.shape)))
    state["logit_scale"], state["logit_bias"] = torch.tensor([SCALE]), torch.tensor([BIAS])
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return model


def ours(model: transformers.SiglipModel) -> open_clip.transformer.TextTransformer:
    """The same tower in open_clip."""
    tower = open_clip.transformer.TextTransformer(
        context_length=CONTEXT, vocab_size=VOCABULARY, width=WIDTH, heads=HEADS, layers=LAYERS, mlp_ratio=3.0,
        output_dim=WIDTH, no_causal_mask=True, pool_type="last", proj_bias=True,
        act_layer=lambda: torch.nn.GELU(approximate="tanh"),
        norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
    ).eval()
    text, state = model.state_dict(), {}
    for name in tower.state_dict():
        source = f"text_model.{name}".replace("token_embedding", "embeddings.token_embedding")
        source = source.replace("positional_embedding", "embeddings.position_embedding.weight")
        source = source.replace("transformer.resblocks", "encoder.layers").replace("ln_final", "final_layer_norm")
        source = source.replace("ln_1", "layer_norm1").replace("ln_2", "layer_norm2")
        source = source.replace("mlp.c_fc", "mlp.fc1").replace("mlp.c_proj", "mlp.fc2").replace("text_projection", "head")
        source = source.replace("attn.out_proj", "self_attn.out_proj")
        if "attn.in_proj_" in source:
            block, kind = source.split("attn.in_proj_")
            state[name] = torch.cat([text[f"{block}self_attn.{third}_proj.{kind}"] for third in "qkv"])
        else:
            state[name] = text[source]
    tower.load_state_dict(state)
    return tower


@torch.no_grad()
def main() -> None:
    model, cases = theirs(), {}
    other = ours(model)
    for name, tokenizer, pad, clean in [("siglip", unigram(), "</s>", canonical), ("siglip2", gemma(), "<pad>", str)]:
        tokens = padded(tokenizer, [clean(text) for text in TEXTS], pad)
        assert int(tokens.max()) < VOCABULARY
        embeds = model.get_text_features(input_ids=tokens)
        embeds = getattr(embeds, "pooler_output", embeds)
        theirs_too = other(tokens)
        assert float((embeds - theirs_too).norm() / embeds.norm()) < 1e-5
        image = torch.from_numpy(values("image", [2, 3, 8, 8]))
        out = model(input_ids=tokens, pixel_values=image)
        cases[name] = {
            "tokenizer": json.loads(tokenizer.to_str()),
            "pad_token": pad,
            "tokens": tokens.tolist(),
            "embeds": [[round(float(x), 9) for x in row] for row in embeds],
            "image_embeds": out.image_embeds.tolist(),
            "probabilities": torch.sigmoid(out.logits_per_image).tolist(),
        }
        cleaned = [open_clip.tokenizer.canonicalize_text(text) for text in TEXTS]
        cases[name]["tokens_of_open_clip"] = padded(tokenizer, cleaned, pad).tolist()
    names = {name: list(tensor.shape) for name, tensor in model.state_dict().items() if not name.startswith("vision_model.")}
    with open("siglip.json", "w", encoding="utf-8") as file:
        json.dump({"texts": TEXTS, "names": names, "scale": SCALE, "bias": BIAS, "cases": cases}, file, ensure_ascii=False)


if __name__ == "__main__":
    main()
