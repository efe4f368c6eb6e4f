"""Parameters of a recipe's model, from its shape alone: no model is built, and torch not loaded."""

from lumenspark.recipe import LumensparkOptions, LumiereOptions, Recipe


def parameters_of(recipe: Recipe) -> int:
    """Parameters with the vocabulary that the recipe names; tied ones are counted once."""
    vocabulary = recipe.tokenizer.vocab_size
    if isinstance(recipe.model, LumiereOptions):
        return lumiere_parameters(recipe.model, vocabulary)
    return lumenspark_parameters(recipe.model, vocabulary)


def lumiere_parameters(shape: LumiereOptions, vocabulary: int) -> int:
    """Tied embedding, positions, blocks, and the gains of the last norm.

    A block has four matrices of attention, three of the gated layer, and the gains of two norms.
    """
    width = shape.hidden_size
    gated = shape.intermediate_size * 2 // 3 // 8 * 8  # as LumiereConfig.gated_size
    block = 4 * width**2 + 3 * width * gated + 2 * width
    tables = (vocabulary + shape.context) * width
    return tables + shape.num_hidden_layers * block + width


def lumenspark_parameters(shape: LumensparkOptions, vocabulary: int) -> int:
    """Tied embedding, positions, blocks, and gain and bias of the last norm.

    A block has four matrices of attention and two of a feed-forward layer four times as wide, each
    in two factors where there is a rank; the projection that writes to the slots; gain and bias of
    two norms; two LayerScales.
    """
    width, rank = shape.embed_dim, shape.rank
    attention, wider = 4 * width**2, 8 * width**2
    if rank is not None:
        attention, wider = 4 * rank * 2 * width, 2 * rank * 5 * width
    rows = width if shape.projection == "content" else shape.heads * shape.context
    block = attention + wider + rows * (shape.k or 0) + 6 * width
    return (vocabulary + shape.context) * width + shape.depth * block + 2 * width
