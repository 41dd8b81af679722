"""Train, judge and use melanoma classifiers on skin-lesion photographs."""
