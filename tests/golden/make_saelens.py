"""Writes tests/golden/saelens: SAEs saved by SAELens 6.54.12, with rows, the features and the reconstructions that it finds
for them. usage: python3 tests/golden/make_saelens.py     (needs sae-lens)"""

import pathlib

import torch
from safetensors.torch import save_file
from sae_lens import saes

here = pathlib.Path(__file__).parent / "saelens"
D, F = 6, 10


def meta(config):
    config.metadata.model_name = "gpt2"
    config.metadata.hook_name = "blocks.6.hook_resid_post"
    config.metadata.context_size = 128
    return config


def write(name, sae, dtype=torch.float32):
    torch.manual_seed(7)
    with torch.no_grad():
        for key, tensor in sae.named_parameters():
            scale = 0.3 if key in ("r_mag", "b_enc", "b_gate", "b_mag", "b_dec") else 0.6
            tensor.copy_(scale * torch.randn(tensor.shape))
            if key == "threshold":
                tensor.copy_(tensor.abs() - 0.05)  # one or two below 0
    directory = here / name
    directory.mkdir(parents=True, exist_ok=True)
    sae.to(dtype).save_model(directory)
    (directory / "sparsity.safetensors").unlink(missing_ok=True)
    sae.to(torch.float32)
    x = torch.randn(40, D) + 0.5
    with torch.no_grad():
        z = sae.encode(x)
        save_file({"x": x, "z": z, "x_hat": sae.decode(z)}, directory / "expected.safetensors")


write("standard", saes.StandardSAE(meta(saes.StandardSAEConfig(d_in=D, d_sae=F))))
write("standard-without-b-dec", saes.StandardSAE(meta(
    saes.StandardSAEConfig(d_in=D, d_sae=F, apply_b_dec_to_input=False))))
write("topk", saes.TopKSAE(meta(saes.TopKSAEConfig(d_in=D, d_sae=F, k=3))), torch.bfloat16)
write("topk-rescaled", saes.TopKSAE(meta(
    saes.TopKSAEConfig(d_in=D, d_sae=F, k=3, rescale_acts_by_decoder_norm=True))))
write("jumprelu", saes.JumpReLUSAE(meta(saes.JumpReLUSAEConfig(d_in=D, d_sae=F))))
write("jumprelu-without-b-dec", saes.JumpReLUSAE(meta(
    saes.JumpReLUSAEConfig(d_in=D, d_sae=F, apply_b_dec_to_input=False))))
write("gated", saes.GatedSAE(meta(saes.GatedSAEConfig(d_in=D, d_sae=F))))
write("gated-without-b-dec", saes.GatedSAE(meta(
    saes.GatedSAEConfig(d_in=D, d_sae=F, apply_b_dec_to_input=False))))

# What a training run of batch-top-k saves.
training = saes.BatchTopKTrainingSAE(meta(saes.BatchTopKTrainingSAEConfig(d_in=D, d_sae=F, k=2)))
torch.manual_seed(9)
with torch.no_grad():
    for tensor in training.parameters():
        tensor.copy_(0.6 * torch.randn(tensor.shape))
    training.topk_threshold.fill_(0.4)
directory = here / "batchtopk"
directory.mkdir(parents=True, exist_ok=True)
training.save_inference_model(directory)
saved = saes.SAE.load_from_disk(directory)
x = torch.randn(40, D) + 0.5
with torch.no_grad():
    z = saved.encode(x)
    save_file({"x": x, "z": z, "x_hat": saved.decode(z)}, directory / "expected.safetensors")
