// Stands in for @oeway/vue-window, which draws floating windows; a viewer in a notebook needs only what is in them.
window.VueWindow = {
  install(vue) {
    for (const name of ["hsc-window-style-material", "hsc-window"])
      vue.component(name, { render(create) { return create("div", this.$slots.default); } });
  },
};
