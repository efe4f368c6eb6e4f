// Long texts: a column of blocks, of which only those near the viewport contain elements.

/** box: the scrolling element (null: all blocks stay filled). fill(i): the children of block i.
    keep(i): true where block i must not be emptied. */
function lazyBlocks({ box, blocks, fill, keep = () => false }) {
  const isFilled = blocks.map(() => false);

  const show = (i) => {
    if (isFilled[i]) return;
    isFilled[i] = true;
    blocks[i].replaceChildren(...fill(i));
  };
  const hide = (i) => {
    if (!isFilled[i] || theme.printing || keep(i)) return;
    isFilled[i] = false;
    blocks[i].style.minHeight = `${blocks[i].offsetHeight}px`;
    blocks[i].replaceChildren();
  };

  let observer = null;
  if (box) {
    const indices = new Map(blocks.map((block, i) => [block, i]));
    const watch = (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) show(indices.get(target));
        else hide(indices.get(target));
      }
    };
    observer = new IntersectionObserver(watch, { root: box, rootMargin: "500px 0px" });
    for (const block of blocks) observer.observe(block);
  } else {
    blocks.forEach((_, i) => show(i));
  }

  return {
    show,
    showAll: () => blocks.forEach((_, i) => show(i)),
    /** Refill filled blocks after a change of colours. */
    refresh() {
      blocks.forEach((block, i) => {
        if (isFilled[i]) block.replaceChildren(...fill(i));
      });
    },
    stop: () => observer?.disconnect(),
  };
}
