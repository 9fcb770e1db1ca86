"""The public names: none may vanish or appear unnoticed."""

import importlib
import inspect

import pytest

# Changed by hand, with a line in CHANGELOG.md.
NAMES = {
    "toque": """
        Run __version__ augment checks data deploy evaluate fit layers losses models
        random train
    """,
    "toque.random": """
        Key kept_globals permutation philox placed seed_globals seed_torch
        sweep_blocks torch_permutation
    """,
    "toque.augment": """
        AlternatingFlip AugMix Augmented AutoAugment CenterCrop ColorJitter Compose
        CutMix Cutout GaussianBlur GaussianNoise Lambda MixUp Normalize PadTo
        Parameters RandAugment RandomAdjustSharpness RandomAffine RandomApply
        RandomAutocontrast RandomChoice RandomCrop RandomEqualize RandomErasing
        RandomGrayscale RandomHorizontalFlip RandomInvert RandomPerspective
        RandomPosterize RandomResizedCrop RandomRotation RandomSolarize
        RandomVerticalFlip Resize ToDtype TrivialAugmentWide contact_sheet preset
    """,
    "toque.data": """
        ArraySource BadFile Batch Columns DatasetSource Encoded Finding Findings FolderSource Item Joined OwnData Packed PackedSource Part Pipeline
        Sampling Source Splits Upload UnreadableImage check damaged_files decode evaluation_batches files_below images_below is_class_folder open
        open_labelled own pack train_batches
    """,
    "toque.deploy": """
        Exported MaskAnswer MasksParity NumbersAnswer NumbersParity Parity Prediction Predictions
        Predictor answer export load predict
    """,
    "toque.layers": """
        ActLinearMlp BlurPool Fused GeM GradientErrors LearnedStepQuantiser RMSNorm2d
        Report SubsetDepth Trace act_linear compare_gradients freeze_for_input_grad fused
        is_saving_memory
        keep_activations norm_act_conv norm_linear recomputing reverse_gradient
        save_memory saved_bytes straight_through trace_saved verify
    """,
    "toque.losses": """
        ArcFace Loss UncertaintyWeights asymmetric ciou contrastive_loss create
        cross_entropy dice distillation explain focal generalised_dice giou huber
        linear_cross_entropy lovasz mixup_cross_entropy names quantile sigmoid_focal
        supervised_contrastive triplet tversky upsample_cross_entropy
    """,
    "toque.models": """
        Attention AttentionGate Checkpointed Classifier Concat EMA Gate HeadLosses
        LayerScale LongSkips Mean MultiHead Parallel Repeat Residual Siamese Skip
        Stage StochasticDepth Sum Up conv_norm create describe fuse fusion_plan
        initialise memory names parameters prune shapes signal surgery weights
    """,
    "toque.models.parameters": """
        Rule Settings Table Unfreezing apply by_optimizer constrain count freeze
        groups initialise is_hidden_matrix layer_wise rules settings shared table
        unfreeze unit_norm
    """,
    "toque.models.initialise": """
        Signal delta_orthogonal dirac fixup glorot he lsuv materialise orthogonal
        signal truncated_normal whiten zero zero_init_residual
    """,
    "toque.train": """
        CheckpointFolder Evaluation Replayed Result Run Stopped create_optimizer
        create_schedule create_step evaluate fit load_model replay
    """,
    "toque.train.metrics": """
        Answers Calibration Doubt Interval Scores Suspect difference resample score scores_of
        suspects temperature_of unlearnt
    """,
    "toque.train.distributed": """
        ALONE Decisions Elsewhere LostRank World check_same joined together
    """,
    "toque.train.report": """
        Doubtful Learnt Picture ReportData denormalise render write
    """,
}


@pytest.mark.parametrize("room", NAMES)
def test_the_public_names_are_these(room):
    module = importlib.import_module(room)
    public = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == room
    ]
    assert sorted(public) == sorted(NAMES[room].split())


@pytest.mark.parametrize("room", NAMES)
def test_every_public_name_is_there_and_documented(room):
    module = importlib.import_module(room)
    for name in NAMES[room].split():
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, f"{room}.{name}"
