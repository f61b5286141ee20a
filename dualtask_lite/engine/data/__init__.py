"""From a case to augmented training samples: working grid, regions, patches, random changes."""
