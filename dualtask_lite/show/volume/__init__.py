"""3D views of a case in the browser: NiiVue, itkwidgets, or a self-contained page."""

from dualtask_lite.show.volume.volume3d import page, volume3d

__all__ = ["page", "volume3d"]
