"""Making itkwidgets draw without a network: its JavaScript from npm, served by JupyterLab itself."""
