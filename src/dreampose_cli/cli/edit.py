"""`dreampose edit`: a photo, changed as a sentence asks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..names import EDIT_REGIONS, GUIDANCE_RANGE
from ..workflows.options import EditOptions
from . import options
from .output import Output, duration


def edit(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="The photo.", show_default=False)],
    instruction: Annotated[str, typer.Argument(metavar="INSTRUCTION", help="What to change.", show_default=False)],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="The edited photo, a .png.")],
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="REGION",
            help=f"{', '.join(EDIT_REGIONS)}, or a mask: a picture, white where it may change.",
            show_default="the whole photo but the face",
        ),
    ] = None,
    face: Annotated[bool, typer.Option("--face", help="Let the face change too.")] = False,
    photo_pose: Annotated[
        Path | None,
        typer.Option("--photo-pose", metavar="FILE", help="The pose in PHOTO, in place of an estimate."),
    ] = None,
    estimator: options.Estimator = None,
    trust_code: options.TrustCode = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="Another model: owner/name[@revision] or a folder.",
            show_default="timbrooks/instruct-pix2pix",
        ),
    ] = None,
    guidance: Annotated[
        float,
        typer.Option(
            "--guidance",
            metavar="S",
            help="Weight of the instruction, 1 to 30.",
            callback=options.within("--guidance", 1.0, GUIDANCE_RANGE[1]),
        ),
    ] = 7.5,
    image_guidance: Annotated[
        float,
        typer.Option(
            "--image-guidance",
            metavar="S",
            help="Weight of the photo, 1 to 30.",
            callback=options.within("--image-guidance", 1.0, GUIDANCE_RANGE[1]),
        ),
    ] = 1.5,
    steps: Annotated[int, options.whole("--steps", "N", "Denoising steps, 1 to 1000.", 1, 1000)] = 50,
    strength: Annotated[
        float,
        typer.Option(
            "--strength",
            metavar="SHARE",
            help="Share of the edit in what may change, 0 to 1.",
            callback=options.within("--strength", 0.0, 1.0),
        ),
    ] = 1.0,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Change a photo as a sentence asks; print the result's path.

    InstructPix2Pix edits the photo. What lies outside --where, and the face, stays as it is to the bit.

    Examples:
      dreampose edit photo.jpg "a red dress" --where clothes -o red.png
      dreampose edit photo.jpg "a beach" --where background -o beach.png
      dreampose edit photo.jpg "add flowers" --where mask.png -o flowers.png
    """
    out = Output(json=json, quiet=quiet, verbose=verbose)
    options.trust_estimator(estimator, trust_code)
    asked = EditOptions(
        photo,
        instruction,
        output,
        where=where,
        face=face,
        photo_pose=photo_pose,
        estimator=estimator,
        model=model,
        guidance=guidance,
        image_guidance=image_guidance,
        steps=steps,
        strength=strength,
        seed=seed,
        device=device,
        dtype=dtype,
        overwrite=overwrite,
    )
    from ..workflows.edit import edit as edit_photo

    with out.progress(None, "editing") as progress:
        edited = edit_photo(asked, progress=progress, note=out.note)
    out.note(f"{100 * edited.changed:.0f} % of the photo changed, in {duration(edited.seconds)}")
    out.result(edited.path, edited)
