// What the sections of a page have in common: the token that the reader has chosen.

/** listeners are called with the chosen token, at once and after every choice. */
function choiceOfToken(first) {
  const listeners = [];
  let token = first;
  return {
    get token() {
      return token;
    },
    choose(next) {
      if (next === token) return;
      token = next;
      for (const listener of listeners) listener(token);
    },
    onchange(listener) {
      listeners.push(listener);
      listener(token);
    },
  };
}
