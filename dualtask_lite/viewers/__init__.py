"""Offline use of itkwidgets: its JavaScript comes from npm and is served by JupyterLab itself."""
